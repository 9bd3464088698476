"""The model class that MLflow loads to classify encoded images with an exported module.

MLflow copies this file into its store and runs it there, so the file imports nothing of this program.
"""

from __future__ import annotations

import importlib.util
import io
from typing import Any

import mlflow
from PIL import Image


class ImageClassifier(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow's types are not read
    """Maps encoded images, such as the bytes of a JPEG file, to their most probable classes."""

    def load_context(self, context: Any) -> None:
        """Load the exported module and its weights."""
        spec = importlib.util.spec_from_file_location("exported_model", context.artifacts["module"])
        assert spec is not None
        assert spec.loader is not None
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        self.network, self.classes = self.module.load(context.artifacts["weights"])

    # Do not annotate the parameters, because MLflow would derive a signature from the annotations.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Return the class and the probability of each image in the column `image` of a data frame."""
        return [self._classify(content) for content in model_input["image"]]

    def _classify(self, content: bytes) -> dict[str, Any]:
        with Image.open(io.BytesIO(content)) as image:
            logits = self.network(self.module.preprocess(image)[None]).detach()
        shares = logits.softmax(1)[0]
        return {"label": self.classes[int(shares.argmax())], "probability": float(shares.max())}


mlflow.models.set_model(ImageClassifier())
