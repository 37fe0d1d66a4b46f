"""AdamW as method.md specifies it: no decay on biases and one-dimensional parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

from patchmix.config import OptimConfig
from patchmix.method import ContrastiveModel
from patchmix.schedules import StepSettings


def create_optimizer(model: ContrastiveModel, config: OptimConfig) -> torch.optim.AdamW:
    """Fused AdamW over the model's two parameter groups, decayed first; `apply_settings` sets lr and decay."""
    groups = model.parameter_groups(config.weight_decay)
    return torch.optim.AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2), fused=True)


def apply_settings(optimizer: torch.optim.Optimizer, settings: StepSettings) -> None:
    """Learning rate and weight decay of one step; the group without decay keeps none."""
    decayed, not_decayed = optimizer.param_groups
    decayed["lr"] = not_decayed["lr"] = settings.lr
    decayed["weight_decay"] = settings.weight_decay


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state on the CPU, named by parameter: `state.encoder.norm.weight.exp_avg` and so on.

    Empty before the first step: torch would make a state by a step with learning rate 0, and that counts.
    """
    if not optimizer.state:
        return {}
    options = StateDictOptions(flatten_optimizer_state_dict=True, full_state_dict=True, cpu_offload=True)
    state = get_optimizer_state_dict(model, optimizer, options=options)
    # Everything else in it (learning rate, decay, …) follows from the config and the step.
    return {name: value for name, value in state.items() if name.startswith("state.")}  # type: ignore[misc]


def load_optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`; the optimiser puts each tensor where its kernels want it.

    (torch's set_optimizer_state_dict refuses the flattened form while the optimiser has no state yet.)
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, parameter in enumerate(parameters):
        prefix = f"state.{names[parameter]}."
        own = {key: tensors[prefix + key] for key in ("step", "exp_avg", "exp_avg_sq") if prefix + key in tensors}
        if own:
            state[number] = own
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
