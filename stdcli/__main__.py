"""`python -m stdcli` is the `stdcli` command."""

import sys

from stdcli.cli.main import main

sys.exit(main())
