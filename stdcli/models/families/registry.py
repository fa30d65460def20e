"""The families that models are loaded of, by name."""

from __future__ import annotations

from stdcli.errors import ModelError
from stdcli.models.families import embedded, sd15, sdxl
from stdcli.models.families.family import Family, Names
from stdcli.models.folder import ModelFolder, check_folder

FAMILIES: dict[str, Family] = {family.name: family for family in (embedded.FAMILY, sd15.FAMILY, sdxl.FAMILY)}
"""Name -> family. A family from elsewhere is loaded once it is in here."""


def family_of(folder: ModelFolder) -> Family:
    """The family of a diffusers folder that can be loaded; raises ModelError for any other."""
    for family in FAMILIES.values():
        if family.holds(folder):
            check_folder(folder, needed=family.components, kinds={family.part: family.network_classes})
            family.check_network(folder)
            return family
    known = ", ".join(sorted(set().union(*(f.class_names for f in FAMILIES.values()))))
    got, expected = folder.class_name, f"one of {known}"
    raise ModelError("unknown kind of model", where=folder.path, got=got, expected=expected)


def names_of(family: str | None) -> Names:
    """What others call the family of a name; nothing is known of families that are not here."""
    return FAMILIES[family].names if family in FAMILIES else Names()
