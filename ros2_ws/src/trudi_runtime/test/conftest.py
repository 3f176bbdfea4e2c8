import sys
from pathlib import Path

# The package where it lies in the source tree; colcon and pip have it on the path already.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
