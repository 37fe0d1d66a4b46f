"""What the settings' steps cost, and which images they take: looked up before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from patchmix.comparing.budget import Cost
from patchmix.comparing.images import Images
from patchmix.comparing.settings import Setting
from patchmix.config import Config, DataConfig
from patchmix.cost import forward_units
from patchmix.data.datasets import ImageSource, has_split, open_dataset, view_size
from patchmix.data.loading import check_batch_size
from patchmix.errors import UserError
from patchmix.job import describe_data
from patchmix.mix_size import check_mix_size
from patchmix.models.encoders import resolve_spec


@dataclass
class Outlook:
    """Costs and images by setting's name; whether finished runs can be measured on labelled test images."""

    costs: dict[str, Cost]
    images: dict[str, Images]
    is_measurable: bool


def look(settings: Sequence[Setting]) -> Outlook:
    """Open the data of each setting (downloaded where it is absent) and count what a step costs.

    Raises:
        UserError: what `pretrain` would refuse, with the setting's name.
    """
    opened: dict[DataConfig, ImageSource] = {}
    costs, images = {}, dict[str, Images]()
    for setting in settings:
        config = setting.config
        try:
            if config.data not in opened:
                opened[config.data] = open_dataset(config.data, "train")
            costs[setting.name] = _cost(config, opened[config.data])
            images[setting.name] = describe_data(opened[config.data])
        except UserError as error:
            raise UserError(f"{setting.name}: {error}") from None
    measurable = [source.labels is not None and has_split(data, "test") for data, source in opened.items()]
    return Outlook(costs, images, all(measurable))


def _cost(config: Config, source: ImageSource) -> Cost:
    processes = config.run.num_devices * config.run.num_nodes
    check_batch_size(source, config.optim.batch_size, processes)
    size = view_size(source, config.data)
    spec = resolve_spec(config.model, size, source.channels, tuple(source.mean), tuple(source.std))
    check_mix_size(config, spec)
    steps = len(source) // config.optim.batch_size
    return Cost(steps, forward_units(config, size), config.optim.batch_size)
