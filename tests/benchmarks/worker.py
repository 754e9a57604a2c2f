"""Measure one figure in this process: ``worker NAME SETTINGS OUTPUT``, both of them JSON."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from .figures import FIGURES
from .measuring import Settings

if __name__ == "__main__":
    name, settings, output = sys.argv[1:]
    result = FIGURES[name].measure(Settings(**json.loads(settings)))
    Path(output).write_text(json.dumps(asdict(result)))
