"""Units of length: the names that WEBKNOSSOS writes, and the symbols that occur."""

# The units of length that servers know, in nanometres.
NANOMETRES: dict[str, float] = {
    "nanometer": 1.0,
    "yottameter": 1e33,
    "zettameter": 1e30,
    "exameter": 1e27,
    "petameter": 1e24,
    "terameter": 1e21,
    "gigameter": 1e18,
    "megameter": 1e15,
    "kilometer": 1e12,
    "hectometer": 1e11,
    "dekameter": 1e10,
    "meter": 1e9,
    "decimeter": 1e8,
    "centimeter": 1e7,
    "millimeter": 1e6,
    "micrometer": 1e3,
    "picometer": 1e-3,
    "femtometer": 1e-6,
    "attometer": 1e-9,
    "zeptometer": 1e-12,
    "yoctometer": 1e-15,
    "angstrom": 0.1,
    "inch": 25.4e6,
    "foot": 304.8e6,
    "yard": 914.4e6,
    "mile": 1.609344e12,
    "parsec": 3.085677581491367e25,
}

# Other spellings; no unit at all means nanometres.
UNIT_SYMBOLS = {
    "": "nanometer",
    "nm": "nanometer",
    "\u00b5m": "micrometer",  # the micro sign
    "\u03bcm": "micrometer",  # the Greek letter
    "um": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "dm": "decimeter",
    "m": "meter",
    "dam": "dekameter",
    "hm": "hectometer",
    "km": "kilometer",
    "Mm": "megameter",
    "Gm": "gigameter",
    "Tm": "terameter",
    "Pm": "petameter",
    "Em": "exameter",
    "Zm": "zettameter",
    "Ym": "yottameter",
    "pm": "picometer",
    "fm": "femtometer",
    "am": "attometer",
    "zm": "zeptometer",
    "ym": "yoctometer",
    "\u00c5": "angstrom",  # the letter
    "\u212b": "angstrom",  # the sign
    "in": "inch",
    "ft": "foot",
    "yd": "yard",
    "mi": "mile",
    "pc": "parsec",
}
