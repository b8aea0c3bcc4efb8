"""Our network in LitServe: litserve_server.py MODEL.onnx PORT. Tiles in, maps out, raw bytes."""

import math
import sys

import litserve
import numpy as np
import onnxruntime
from fastapi import Request, Response

THREADS = 2


class Network(litserve.LitAPI):
    def setup(self, device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        self.session = onnxruntime.InferenceSession(sys.argv[1], options)

    def decode_request(self, request: Request) -> np.ndarray:
        image = np.frombuffer(request["tile"].file.read(), np.float32)
        side = math.isqrt(image.size)
        return image.reshape(1, 1, side, side)

    def predict(self, image: np.ndarray) -> np.ndarray:
        maps: np.ndarray = self.session.run(["MAPS"], {"IMAGE": image})[0]
        return maps

    def encode_response(self, maps: np.ndarray) -> Response:
        return Response(maps.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    server = litserve.LitServer(Network(), accelerator="cpu")
    server.run(port=int(sys.argv[2]), generate_client_file=False, log_level="warning")
