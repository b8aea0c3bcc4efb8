"""Triton and the gateway as one service: started, watched, started again."""
