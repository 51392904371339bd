"""Array: a numpy array of any type and shape, for annotations. jaxtyping names shapes where callers need them."""

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Array: TypeAlias = npt.NDArray[Any]
else:
    Array = np.ndarray  # jaxtyping wants a class
