from stdcli.bank.reader import Bank as Bank
from stdcli.bank.reader import open_bank as open_bank
from stdcli.errors import StdcliError as StdcliError
from stdcli.evaluate.one_result import measure as measure
from stdcli.inference.stylizer import Stylizer as Stylizer

__version__: str
__all__ = ["Bank", "StdcliError", "Stylizer", "__version__", "measure", "open_bank"]
