"""The workbench: data, fitting of the shipped profiles, benchmarks, the demo. Nothing uses it."""
