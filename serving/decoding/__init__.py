"""Image files decoded in processes of their own, which can be limited and killed.

Decoders are large C libraries, a file may come from anywhere, and what a few bytes cost to read is
known only afterwards. A thread cannot be stopped; a process can: it is killed once its caller has
left or the time of its frame is over, and the kernel bounds its memory and its processor time.

`decoders` is the gateway's side, `decoder` the program of the processes; between them go short
messages on a pair of sockets, and files and pixels in shared memory (`segment`). Nothing listens.
"""
