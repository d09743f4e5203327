"""Where the cost curves lie that hold where a cluster names none."""

from pathlib import Path
from typing import Final

DEFAULT_CURVES_FILE: Final = Path(__file__).with_name("default_curves.yaml")
"""What a curves file leaves out is as here, for the simulated engine and the control loop alike."""
