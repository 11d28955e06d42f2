"""What turns the channels of a foreign network into the labels of a label space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gosvae_codec.errors import LabelError
from gosvae_codec.labels import Label, LabelSpace, label_space, translate

from ..strict import ConfigError
from . import settings

_ABSENT = -30.0
"""Logit of a class that a foreign network does not know."""


class Translate(nn.Module):
    """Logits of foreign channels to logits of a label space.

    A class that several channels fall into gets the sum of their probabilities.
    """

    def __init__(
        self, channels: Sequence[str], labels: LabelSpace, source: LabelSpace | None = None
    ) -> None:
        """Make the table.

        Args:
            channels: label name of each channel, empty for none.
            labels: label space wanted.
            source: where given, the label space of the names, some of which `labels` may lack.

        Raises:
            ConfigError: no channel means one of the labels or, without `source`, one does not.
        """
        super().__init__()
        partial = source is not None
        if source is None:
            named = [name for name in dict.fromkeys(channels) if name]
            entries = tuple(Label(place, name, (0, 0, 0)) for place, name in enumerate(named))
            source = LabelSpace("channels", entries) if named else labels
        names, table = {each.id: each.name for each in labels.labels}, translate(source, labels)
        meant = {each.name: names.get(int(table[each.id]), "") for each in source.labels}
        self.table = [(name, meant[name] if name else "") for name in channels]
        self.groups = [
            [place for place, (_, label) in enumerate(self.table) if label == each.name]
            for each in labels.labels
        ]
        self.identity = self.groups == [[place] for place in range(len(channels))]
        """Whether the channels are the labels, in their order."""
        strange = [name for name, label in self.table if name and not label]
        if not any(self.groups) or (strange and not partial):
            raise ConfigError(
                f"channels {strange or list(channels)}: no labels of {labels.name}, which has "
                f"{', '.join(names.values())}; leave a channel out with an empty name\n{self}"
            )

    def __str__(self) -> str:
        rows = [("channel", "name", "label")]
        rows += [(str(place), *pair) for place, pair in enumerate(self.table)]
        return "\n".join(f"{a:>7}  {b or '-':20}  {c or '-'}" for a, b, c in rows)

    def check(self, channels: int) -> None:
        """Raise ConfigError unless a network with so many channels is meant."""
        if channels != len(self.table):
            raise ConfigError(
                f"the expert has {channels} channels, but {len(self.table)} are named; give a name "
                f"for each, empty for none\n{self}"
            )

    def forward(self, logits: Tensor) -> Tensor:
        self.check(logits.shape[1])
        if self.identity:
            return logits
        absent = torch.full_like(logits[:, 0], _ABSENT)
        logits = logits.log_softmax(1)
        return torch.stack(
            [logits[:, group].logsumexp(1) if group else absent for group in self.groups], 1
        )


def translate_channels(channels: settings.Channels, labels: LabelSpace) -> Translate:
    """Return what turns the channels of a configuration into labels.

    Raises:
        ConfigError: see :class:`Translate`; or the channels are no label space.
    """
    if not isinstance(channels, str):
        return Translate(channels, labels)
    try:
        source = label_space(channels)
    except LabelError as error:
        raise ConfigError(f"channels: {error}") from error
    return Translate([each.name for each in source.labels], labels, source)
