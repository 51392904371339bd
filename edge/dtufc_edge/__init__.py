import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's core reads it as it is imported; its lines are no JSON
