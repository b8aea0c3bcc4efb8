"""Our network in MLServer, which speaks Triton's protocol: a runtime, for `mlserver start`."""

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

THREADS = 2


class Network(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        self.session = onnxruntime.InferenceSession(self.settings.parameters.uri, options)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        image = NumpyCodec.decode_input(payload.inputs[0])
        (maps,) = self.session.run(["MAPS"], {"IMAGE": image})
        output = NumpyCodec.encode_output("MAPS", maps)
        return InferenceResponse(model_name=self.name, outputs=[output])
