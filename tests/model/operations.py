"""Counts what reaches PyTorch's kernels: on a GPU, launches."""

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """`with Operations() as operations: …` leaves their names in `operations.names`, views among them."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if str(function).startswith("aten"):
            self.names.append(str(function))
        return function(*args, **kwargs or {})
