"""Makes the scripts of this folder importable, which the tests also start as processes."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
