"""The paper's tables and figures from measured points; measures nothing itself."""
