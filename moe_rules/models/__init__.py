"""From a Hugging Face config.json to the facts of its MoE layers.

``derive_layers`` is the way in; the knowledge is in ``rules/models``. Nothing here imports torch,
vLLM or transformers.
"""

from moe_rules.models.deployment import Deployment
from moe_rules.models.derive import ModelLayer, derive_layers
from moe_rules.models.errors import CheckpointRefusedError, UnknownModelError
from moe_rules.models.loading import LoadRefusal
from moe_rules.models.tables import Tables, load_tables

__all__ = [
    "CheckpointRefusedError",
    "Deployment",
    "LoadRefusal",
    "ModelLayer",
    "Tables",
    "UnknownModelError",
    "derive_layers",
    "load_tables",
]
