"""Triton, the gateway and sync as one service: started, watched, started again.

nuclei serve                      guard: starts the supervisor again when it dies or hangs
└─ serving.supervision            supervisor: watches those below, starts them again
   ├─ tritonserver                one process per model instance below it
   ├─ serving.gateway             has imported everything; forks the one below it
   │  └─ serving.gateway          BentoML's service: HTTP, and beside it gRPC
   └─ serving.promotion           sync: follows the registry, with `--sync`

Each is a child of the one above it (`nuclei.process.child`) and ends when that ends, however it
ends. Modules, in the order in which they come into play:

guard               runs the supervisor until it ends by itself
__main__            the supervisor's process: starts the service, checks it, watches it
launcher            Triton and the gateway as parts; stops them in the order that loses nothing
answering_child     a child process that answers over HTTP whether it works
gateway_process     the gateway as such a child, which forks the one that serves
sync_process        sync as such a child; before Triton starts it fetches the champions
loopback            how this machine's own processes call the gateway
self_check          segments a real frame with every model
supervisor          starts the parts side by side, and again what ended or does not work
probe               small inferences that show whether Triton works
"""
