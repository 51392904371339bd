"""Features <-> bytes: no model, no network, no settings."""
