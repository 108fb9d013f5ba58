"""transformers computes its experts with the kernels that the tables select.

Importing this registers ``experts_implementation="moe_rules"``::

    import moe_rules.integrations.transformers
    model = AutoModelForCausalLM.from_pretrained(..., experts_implementation="moe_rules")
    model.set_experts_implementation("moe_rules")  # or on a model that is there

``docs/transformers.md`` is for users. Needs transformers and the extra ``kernels``.
"""

from moe_rules.integrations.transformers.models import register
from moe_rules.integrations.transformers.saying import NAME

__all__ = ["NAME", "register"]

register()
