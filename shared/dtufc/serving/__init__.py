"""What a service needs and a model does not know: transport, errors, work, settings, metrics, life."""
