"""Makes `python hack/kube` work from anywhere."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a folder, Python puts the folder itself on the path; the package lies in its parent.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from kube.command_line import main

    sys.exit(main())
