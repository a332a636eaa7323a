"""Define the words of the pocket shop: what the catalogue writes, and what shoppers say for the same thing."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True)
class Leaf:
    """One leaf category: its path in the taxonomy, its names, and what its products can be."""

    key: str
    path: str
    nouns: tuple[str, ...]
    shopper: tuple[str, ...]
    jargon: tuple[str, ...]
    materials: tuple[str, ...]
    palette: str
    patterned: float
    size: str
    features: tuple[str, ...]
    uses: tuple[tuple[str, str | None], ...]
    price: tuple[float, float]
    popularity: float
    complements: tuple[str, ...]


@dataclass(frozen=True)
class Colour:
    """A basic colour: how it looks, what the catalogue calls it, what shoppers call it, what may stand in for it."""

    rgb: tuple[int, int, int]
    catalogue: tuple[str, ...]
    shopper: tuple[str, ...]
    near: tuple[str, ...]


@dataclass(frozen=True)
class Term:
    """A material, pattern or feature in catalogue words and in shoppers' words."""

    catalogue: tuple[str, ...]
    shopper: tuple[str, ...]
    near: tuple[str, ...] = ()


@dataclass(frozen=True)
class Brand:
    """A brand: the departments it knows best, how dear it is, and how it writes its titles."""

    name: str
    departments: tuple[str, ...]
    price_level: float
    title_style: str


def _words(cell: str) -> tuple[str, ...]:
    return tuple(word for word in cell.split(";") if word)


def _leaf(row: dict[str, str]) -> Leaf:
    uses = tuple((phrase, feature or None) for phrase, _, feature in (u.partition("@") for u in _words(row["uses"])))
    lists = {name: _words(row[name]) for name in ("nouns", "shopper", "jargon", "materials", "features", "complements")}
    return Leaf(
        key=row["key"],
        path=row["path"],
        palette=row["palette"],
        patterned=float(row["patterned"]),
        size=row["size"],
        uses=uses,
        price=(float(row["price_low"]), float(row["price_high"])),
        popularity=float(row["popularity"]),
        **lists,
    )


@cache
def leaves() -> tuple[Leaf, ...]:
    """Return the 132 leaf categories in the order of `leaves.csv`."""
    text = resources.files(__package__).joinpath("leaves.csv").read_text(encoding="utf-8")
    return tuple(_leaf(row) for row in csv.DictReader(text.splitlines()))


COLOURS: dict[str, Colour] = {
    "white": Colour((240, 239, 234), ("White", "Alabaster", "Chalk", "Polar"), ("white",), ("beige", "grey")),
    "black": Colour((34, 34, 38), ("Black", "Onyx", "Jet", "Raven"), ("black",), ("grey",)),
    "grey": Colour((134, 138, 143), ("Grey", "Slate", "Ash", "Graphite"), ("grey", "gray"), ("black", "silver")),
    "beige": Colour((216, 198, 167), ("Beige", "Sand", "Oat", "Ecru"), ("beige", "cream", "off-white"), ("white",)),
    "brown": Colour((116, 76, 48), ("Brown", "Chestnut", "Cocoa", "Walnut"), ("brown",), ("beige", "orange")),
    "red": Colour((190, 38, 44), ("Red", "Bordeaux", "Carmine", "Garnet"), ("red",), ("pink", "orange")),
    "orange": Colour((231, 123, 40), ("Orange", "Apricot", "Rust", "Amber"), ("orange",), ("red", "yellow")),
    "yellow": Colour((242, 202, 62), ("Yellow", "Saffron", "Lemon", "Mustard"), ("yellow",), ("orange", "gold")),
    "green": Colour((68, 132, 82), ("Green", "Sage", "Moss", "Emerald"), ("green",), ("turquoise",)),
    "blue": Colour((42, 86, 164), ("Blue", "Cobalt", "Navy", "Indigo"), ("blue",), ("turquoise", "purple")),
    "turquoise": Colour((54, 176, 178), ("Turquoise", "Teal", "Lagoon", "Aqua"), ("turquoise",), ("blue", "green")),
    "purple": Colour(
        (118, 72, 152), ("Purple", "Aubergine", "Plum", "Lavender"), ("purple", "violet"), ("pink", "blue")
    ),
    "pink": Colour((232, 142, 168), ("Pink", "Blush", "Rose", "Flamingo"), ("pink",), ("red", "purple")),
    "silver": Colour((186, 190, 196), ("Silver", "Chrome", "Platinum"), ("silver",), ("grey", "white")),
    "gold": Colour((206, 164, 78), ("Gold", "Champagne", "Honey"), ("gold", "golden"), ("yellow", "beige")),
}

# How often a product of a palette has each colour. Colours that a palette leaves out never occur in it.
PALETTES: dict[str, dict[str, float]] = {
    "any": dict.fromkeys(
        ["white", "black", "grey", "beige", "brown", "red", "orange", "yellow", "green", "blue", "turquoise", "purple"],
        1,
    )
    | {"black": 1.6, "blue": 1.6, "white": 1.4, "green": 1.3, "pink": 1.0},
    "muted": {
        "white": 2,
        "black": 3,
        "grey": 3,
        "beige": 3,
        "brown": 3,
        "green": 1.5,
        "blue": 1.5,
        "red": 0.7,
        "yellow": 0.5,
    },
    "tech": {
        "black": 4,
        "white": 3,
        "grey": 2,
        "silver": 3,
        "blue": 1,
        "red": 1,
        "gold": 0.7,
        "pink": 0.7,
        "green": 0.6,
    },
    "wood": {"brown": 4, "beige": 3, "white": 1, "black": 1, "grey": 1},
    "clear": {"white": 3, "blue": 1, "green": 1, "pink": 0.7, "grey": 1, "gold": 0.7, "turquoise": 0.7},
    "warm": {"red": 4, "pink": 4, "orange": 2, "brown": 2, "purple": 2},
}

MATERIALS: dict[str, Term] = {
    "aluminium": Term(("aluminium", "alloy"), ("aluminium", "light metal"), ("steel",)),
    "bamboo": Term(("bamboo",), ("bamboo",), ("oak", "beech", "pine", "rattan")),
    "beech": Term(("beech",), ("beech", "wooden"), ("oak", "pine", "bamboo")),
    "brass": Term(("brass",), ("brass", "golden metal"), ("copper", "steel")),
    "canvas": Term(("canvas", "duck cloth"), ("canvas", "sturdy fabric"), ("cotton", "polyester", "linen")),
    "cast_iron": Term(("cast iron",), ("cast iron", "heavy iron"), ("steel",)),
    "ceramic": Term(("ceramic", "earthenware"), ("ceramic", "pottery"), ("stoneware", "porcelain", "terracotta")),
    "copper": Term(("copper",), ("copper",), ("brass", "steel")),
    "cork": Term(("cork",), ("cork",), ("rubber",)),
    "cotton": Term(("cotton", "jersey cotton"), ("cotton",), ("linen", "canvas")),
    "crystal": Term(("crystal",), ("crystal", "cut glass"), ("glass",)),
    "enamel": Term(("enamel",), ("enamel", "enamelled metal"), ("steel",)),
    "glass": Term(("glass", "borosilicate"), ("glass",), ("crystal",)),
    "jute": Term(("jute", "hessian"), ("jute", "natural fibre"), ("cotton", "rattan")),
    "leather": Term(("leather", "full-grain hide", "nappa"), ("leather",), ("suede",)),
    "linen": Term(("linen", "flax"), ("linen",), ("cotton", "canvas")),
    "marble": Term(("marble", "Carrara"), ("marble", "stone"), ()),
    "oak": Term(("oak",), ("oak", "wooden", "solid wood"), ("beech", "pine", "bamboo")),
    "paper": Term(("paper", "vellum"), ("paper",), ()),
    "pine": Term(("pine",), ("pine", "wooden"), ("oak", "beech", "bamboo")),
    "plastic": Term(("ABS", "polypropylene", "resin"), ("plastic",), ("silicone", "rubber")),
    "polyester": Term(("polyester", "microfibre", "ripstop"), ("polyester", "synthetic"), ("cotton", "canvas")),
    "porcelain": Term(("porcelain", "bone china"), ("porcelain", "fine china"), ("ceramic", "stoneware")),
    "rattan": Term(("rattan", "cane"), ("wicker", "rattan"), ("bamboo", "jute")),
    "rubber": Term(("rubber",), ("rubber",), ("silicone", "plastic")),
    "satin": Term(("satin",), ("satin", "shiny fabric"), ("silk",)),
    "silicone": Term(("silicone",), ("silicone", "rubbery"), ("rubber", "plastic")),
    "silk": Term(("silk", "mulberry silk"), ("silk", "silky"), ("satin",)),
    "steel": Term(("stainless steel", "powder-coated steel"), ("steel", "metal"), ("aluminium", "cast_iron")),
    "stoneware": Term(("stoneware",), ("stoneware", "pottery"), ("ceramic", "porcelain")),
    "suede": Term(("suede", "nubuck"), ("suede", "soft leather"), ("leather",)),
    "terracotta": Term(("terracotta",), ("terracotta", "clay"), ("ceramic",)),
    "velvet": Term(("velvet", "velour"), ("velvet", "plush"), ()),
    "wool": Term(("wool", "merino", "lambswool"), ("wool", "woollen"), ("cotton",)),
}

PATTERNS: dict[str, Term] = {
    "plain": Term(("solid", "uni"), ("plain", "one colour")),
    "striped": Term(("striped", "pinstripe", "Breton"), ("striped", "with stripes", "stripy"), ("zigzag",)),
    "checked": Term(("checked", "tartan", "gingham"), ("checked", "chequered", "plaid"), ()),
    "dotted": Term(("polka dot", "dotted", "spotted"), ("dotted", "with dots", "spotty"), ("stars",)),
    "floral": Term(("floral", "botanical", "blossom print"), ("flowery", "with flowers", "floral"), ()),
    "zigzag": Term(("chevron", "herringbone", "zigzag"), ("zigzag", "chevron"), ("striped",)),
    "stars": Term(("star print", "constellation"), ("with stars", "starry"), ("dotted",)),
}

FEATURES: dict[str, Term] = {
    "airtight": Term(("hermetic seal", "airtight"), ("airtight", "that keeps food fresh")),
    "backlit": Term(("illuminated keys", "backlit"), ("with light-up keys", "backlit")),
    "blackout": Term(("opaque lining", "light-blocking"), ("blackout", "that keeps light out")),
    "breathable": Term(("air-permeable mesh", "ventilated"), ("breathable", "airy")),
    "child_safe": Term(("EN 71 certified", "no small parts"), ("child-safe", "safe for babies")),
    "cordless": Term(("cord-free base", "battery operated"), ("cordless", "without a cable")),
    "curved": Term(("1500R radius",), ("curved",)),
    "cushioned": Term(("memory foam insole",), ("cushioned", "padded")),
    "defrost": Term(("defrost cycle",), ("with defrost", "for frozen bread")),
    "dimmable": Term(("stepless brightness", "dimmer"), ("dimmable", "with adjustable brightness")),
    "dishwasher_safe": Term(("dishwasher-proof", "machine cleanable"), ("dishwasher safe", "no washing up by hand")),
    "energy_saving": Term(("eco mode", "class A"), ("energy saving", "low power")),
    "ergonomic": Term(("contoured support", "ergonomic"), ("ergonomic", "easy on the body")),
    "expandable": Term(("expansion zip",), ("expandable", "with extra space")),
    "extendable": Term(("pull-out extension", "butterfly leaf"), ("extendable", "that gets bigger")),
    "fast_charging": Term(("45 W quick charge", "rapid charging"), ("fast charging", "that charges quickly")),
    "foldable": Term(("collapsible", "folds flat"), ("foldable", "that folds away")),
    "freezer_safe": Term(("suitable to -40 degrees",), ("freezer safe",)),
    "handmade": Term(("crafted by hand", "artisan made"), ("handmade", "hand-crafted")),
    "heat_resistant": Term(("withstands 230 degrees",), ("heat resistant", "that does not melt")),
    "height_adjustable": Term(("variable height", "gas-lift column"), ("adjustable", "adjustable height")),
    "hidden_storage": Term(("concealed compartment", "lift-up lid"), ("with storage", "with hidden storage")),
    "induction": Term(("ferromagnetic base", "all hob types"), ("for induction", "induction")),
    "insulated": Term(("double-walled", "thermal core"), ("insulated", "that keeps the temperature")),
    "laptop_sleeve": Term(('15" padded sleeve',), ("with laptop pocket", "for a laptop")),
    "leakproof": Term(("sealed cap", "spill guard"), ("leakproof", "that does not leak")),
    "lightweight": Term(("featherlight", "ultralight build"), ("lightweight", "light")),
    "lined": Term(("full lining",), ("lined",)),
    "lockable": Term(("key lock", "TSA lock"), ("lockable", "with a lock")),
    "long_lasting": Term(("16 h wear",), ("long lasting", "that stays on")),
    "machine_washable": Term(("30 degree wash", "washer friendly"), ("machine washable", "easy to wash")),
    "magnetic": Term(("built-in magnets",), ("magnetic",)),
    "microwave_safe": Term(("suitable for microwaves",), ("microwave safe", "to heat up food")),
    "milk_frother": Term(("steam wand",), ("with milk frother", "that froths milk")),
    "mirrored": Term(("full-length glass door",), ("with a mirror",)),
    "noise_cancelling": Term(("ANC", "active noise reduction"), ("noise cancelling", "that blocks out noise")),
    "non_iron": Term(("easy-care finish", "crease resistant"), ("non-iron", "no ironing")),
    "non_slip": Term(("anti-skid grip", "grippy base"), ("non-slip", "that does not slide")),
    "non_stick": Term(("PFAS-free coating", "titanium coating"), ("non-stick", "where nothing sticks")),
    "organic": Term(("GOTS certified", "from certified farming"), ("organic", "eco")),
    "oven_safe": Term(("ovenproof to 250 degrees",), ("oven safe", "that can go in the oven")),
    "polarised": Term(("glare filter lenses",), ("polarised", "against glare")),
    "quick_dry": Term(("moisture wicking", "fast drying"), ("quick dry", "that dries fast")),
    "rechargeable": Term(("Li-ion pack", "USB-C charging"), ("rechargeable", "without batteries")),
    "reclining": Term(("adjustable backrest",), ("reclining", "that leans back")),
    "recycled": Term(("post-consumer content", "upcycled"), ("recycled", "sustainable")),
    "reflective": Term(("hi-vis piping",), ("reflective", "visible at night")),
    "remote_control": Term(("2.4 GHz handset included",), ("remote controlled", "with a remote")),
    "reversible": Term(("two-sided",), ("reversible", "usable on both sides")),
    "rfid_block": Term(("RFID shield",), ("RFID", "theft-proof")),
    "scratch_resistant": Term(("hardened surface",), ("scratch resistant", "that does not scratch")),
    "self_watering": Term(("water reservoir",), ("self-watering",)),
    "shatterproof": Term(("tempered", "unbreakable"), ("shatterproof", "that does not break")),
    "shock_proof": Term(("drop tested to 2 m", "impact absorbing"), ("shockproof", "that survives a fall")),
    "silent": Term(("noise level 30 dB", "whisper mode"), ("silent", "quiet")),
    "soft_close": Term(("damped hinges",), ("soft close", "that does not slam")),
    "solar": Term(("photovoltaic cell",), ("solar", "sun powered")),
    "stackable": Term(("nests when stored", "space-saving stack"), ("stackable", "that can be stacked")),
    "stain_resistant": Term(("fluorine-free finish", "spill repellent"), ("stain resistant", "easy to clean")),
    "stretch": Term(("elastane blend", "4-way flex"), ("stretchy", "stretch")),
    "temperature_control": Term(
        ("digital thermostat", "variable heat"), ("with temperature control", "adjustable heat")
    ),
    "thermal": Term(("brushed lining", "heat retaining"), ("warm", "thermal")),
    "touch_control": Term(("sensor operated", "capacitive switch"), ("touch control", "with touch")),
    "usb": Term(("USB port", "USB-C hub"), ("USB", "with usb")),
    "uv_protection": Term(("UPF 50+", "UV400"), ("with UV protection", "against the sun")),
    "wall_mounted": Term(("hanging bracket included", "wall fixing"), ("wall mounted", "to hang on the wall")),
    "washable_cover": Term(("removable zip cover",), ("washable", "with washable cover")),
    "waterproof": Term(("IPX7", "sealed seams", "water repellent membrane"), ("waterproof", "for the rain")),
    "weatherproof": Term(("frost proof", "all-season finish"), ("weatherproof", "for outside")),
    "windproof": Term(("storm tested", "wind vented"), ("windproof", "for strong wind")),
    "wireless": Term(("Bluetooth 5.3", "2.4 GHz link"), ("wireless", "without wires")),
    "with_infuser": Term(("removable strainer",), ("with infuser", "for loose tea")),
    "with_lid": Term(("glass cover included", "tight-fitting top"), ("with lid", "with a lid")),
}

# A style family is a taste that runs through departments; outfits and rooms are put together within one.
STYLES: dict[str, dict[str, Sequence[str]]] = {
    "nordic": {"words": ("Nordic", "Scandinavian", "hygge"), "colours": ("white", "beige", "grey", "blue")},
    "industrial": {"words": ("industrial", "loft", "factory"), "colours": ("black", "grey", "brown", "silver")},
    "vintage": {"words": ("vintage", "retro", "mid-century"), "colours": ("brown", "orange", "green", "yellow")},
    "boho": {"words": ("boho", "bohemian", "folk"), "colours": ("red", "orange", "purple", "turquoise")},
    "classic": {"words": ("classic", "timeless", "heritage"), "colours": ("black", "blue", "red", "gold")},
    "playful": {"words": ("playful", "pop", "cheerful"), "colours": ("pink", "yellow", "turquoise", "purple")},
    "sporty": {"words": ("sporty", "active", "performance"), "colours": ("black", "blue", "green", "red")},
    "pure": {"words": ("minimalist", "pure", "reduced"), "colours": ("white", "black", "silver", "beige")},
}

_HOME, _KITCHEN, _FASHION, _TECH = "Home & Living", "Kitchen & Dining", "Fashion", "Electronics"
_SPORT, _OFFICE, _GARDEN, _KIDS, _CARE, _PETS = (
    "Sports & Outdoors",
    "Office & School",
    "Garden & DIY",
    "Kids & Toys",
    "Beauty & Care",
    "Pets",
)

BRANDS: tuple[Brand, ...] = tuple(
    Brand(name, tuple(departments), price_level, style)
    for name, departments, price_level, style in [
        ("Norvind", [_HOME, _OFFICE], 1.1, "model"),
        ("Halvarsen", [_HOME], 1.4, "model"),
        ("Tamsworth", [_HOME, _KITCHEN], 1.3, "long"),
        ("Lumora", [_HOME], 1.0, "code"),
        ("Casa Brillo", [_HOME, _GARDEN], 0.8, "long"),
        ("Ostrell", [_HOME, _OFFICE], 0.7, "code"),
        ("Weldon & Pike", [_HOME], 1.7, "long"),
        ("Fjordal", [_HOME, _KIDS], 0.9, "model"),
        ("Kupferberg", [_KITCHEN], 1.4, "long"),
        ("Pannello", [_KITCHEN], 0.8, "code"),
        ("Maison Verlaine", [_KITCHEN, _CARE], 1.6, "long"),
        ("Tarn Pottery", [_KITCHEN, _GARDEN], 1.2, "model"),
        ("Brewsmith", [_KITCHEN], 1.0, "model"),
        ("Ovenbird", [_KITCHEN], 0.9, "short"),
        ("Ardenne", [_FASHION], 1.5, "long"),
        ("Bluefold", [_FASHION], 0.8, "short"),
        ("Casimir", [_FASHION], 1.2, "model"),
        ("Lindqvist & Daughters", [_FASHION], 1.4, "long"),
        ("Odelle", [_FASHION, _CARE], 1.0, "model"),
        ("Rivet Row", [_FASHION], 0.7, "short"),
        ("Sorrento Lane", [_FASHION], 1.3, "long"),
        ("Strider", [_FASHION, _SPORT], 1.0, "code"),
        ("Wexcombe", [_FASHION], 1.1, "model"),
        ("Hide & Harness", [_FASHION, _PETS], 1.5, "long"),
        ("Aurelio", [_FASHION], 1.8, "short"),
        ("Voltane", [_TECH], 1.0, "code"),
        ("Kyomi", [_TECH], 1.3, "code"),
        ("Sonaria", [_TECH], 1.2, "model"),
        ("Pixelgrove", [_TECH, _OFFICE], 0.8, "code"),
        ("Nimbus Nine", [_TECH], 0.9, "short"),
        ("Hexatek", [_TECH, _GARDEN], 0.7, "code"),
        ("Peak Lantern", [_SPORT], 1.2, "model"),
        ("Ibexa", [_SPORT], 1.3, "code"),
        ("Tidewell", [_SPORT, _FASHION], 1.0, "model"),
        ("Grit Union", [_SPORT], 0.8, "short"),
        ("Velodrome Works", [_SPORT], 1.4, "long"),
        ("Inkwell Bros", [_OFFICE], 1.2, "long"),
        ("Papyra", [_OFFICE, _KIDS], 0.8, "short"),
        ("Desk Theory", [_OFFICE], 1.0, "model"),
        ("Greenspade", [_GARDEN], 1.0, "model"),
        ("Oak & Anvil", [_GARDEN], 1.3, "long"),
        ("Minnow & Moth", [_KIDS], 1.2, "long"),
        ("Tumbletop", [_KIDS], 0.8, "short"),
        ("Belle Époque", [_CARE], 1.5, "long"),
        ("Purelle Labs", [_CARE], 0.9, "code"),
        ("Waggery", [_PETS], 1.0, "short"),
        ("Finn & Feather", [_PETS, _GARDEN], 1.2, "long"),
        ("Everday", [_HOME, _KITCHEN, _FASHION, _OFFICE, _PETS], 0.5, "short"),
        ("Savewell", [_TECH, _SPORT, _GARDEN, _KIDS, _CARE], 0.5, "short"),
    ]
)
