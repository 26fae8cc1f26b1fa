"""The scripts that make the reference are modules for these tests."""

import sys

from support.markdown import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
