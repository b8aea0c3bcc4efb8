"""The gateway: one data plane, spoken to over gRPC and HTTP."""
