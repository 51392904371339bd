"""OpenAI's interface over HTTP, in the edge's event loop beside gRPC.

JSON --schema--> request --translate--> CompleteRequest --service--> CompleteReply ... --translate--> JSON or events
"""
