"""List the words that shoppers use for fashion_products, and what each of them means in the catalogue's own terms.

All words are written for this course. `shopper` and `jargon` words are not the catalogue's; `plain` ones are, for
a part of the queries. No word stands for two things, and none begins a word of the course for another thing. Types that
are not listed (underwear, gifts, a few odd ones) are never asked about.
"""

from __future__ import annotations

from typing import NamedTuple


class Noun(NamedTuple):
    """Name the things a shopper means: their types in the catalogue, and words for them."""

    types: tuple[str, ...]
    plain: tuple[str, ...] = ()
    shopper: tuple[str, ...] = ()
    jargon: tuple[str, ...] = ()


# fmt: off
NOUNS = (
    Noun(("Tshirts",), ("t-shirt",), ("tee", "tees"), ("jersey top",)),
    Noun(("Shirts",), ("shirt",), ("button-down", "button-up"), ("collared button-through",)),
    Noun(("Tops",), ("top",), ("blouse",)),
    Noun(("Tunics",), ("tunic",), ("long blouse",), ("overblouse",)),
    Noun(("Kurtas",), ("kurta",), ("long indian shirt", "indian long top"), ("mandarin-collar longline",)),
    Noun(("Kurtis",), ("kurti",), ("short indian blouse",), ("hip-length indian top",)),
    Noun(("Sweaters",), ("sweater",), ("jumper", "pullover", "woolly"), ("knitwear",)),
    Noun(("Sweatshirts",), ("sweatshirt",), ("sweat top", "fleece pullover"), ("loopback fleece",)),
    Noun(("Jackets",), ("jacket",), ("zip-up layer",)),
    Noun(("Rain Jacket",), ("rain jacket",), ("raincoat", "mac"), ("shell layer",)),
    Noun(("Jackets", "Rain Jacket", "Blazers"), (), (), ("outerwear",)),
    Noun(("Rain Jacket", "Rain Trousers"), (), (), ("waterproofs",)),
    Noun(("Blazers",), ("blazer",), ("suit coat", "sports coat"), ("tailored jacket",)),
    Noun(("Waistcoat",), ("waistcoat",), ("suit vest",), ("suit waist piece",)),
    Noun(("Jeans",), ("jeans",), ("denims",), ("five-pocket denim",)),
    Noun(("Jeggings",), ("jeggings",), ("stretchy denim tights",), ("pull-on denim",)),
    Noun(("Trousers",), ("trousers",), ("slacks", "pants"), ("full-length bottoms",)),
    Noun(("Shorts",), ("shorts",), ("half pants", "short pants"), ("short-inseam bottoms",)),
    Noun(("Track Pants",), ("track pants",), ("joggers", "sweatpants"), ("training bottoms",)),
    Noun(("Tracksuits",), ("tracksuit",), ("jogging suit",), ("warm-up set",)),
    Noun(("Capris",), ("capris",), ("three-quarter pants", "cropped pants"), ("pedal pushers",)),
    Noun(("Leggings",), ("leggings",), ("stretch pants",), ("lycra bottoms",)),
    Noun(("Leggings", "Tights", "Jeggings"), (), (), ("second-skin bottoms",)),
    Noun(("Stockings",), ("stockings",), ("nylons",), ("denier legwear",)),
    Noun(("Skirts",), ("skirt",), ("skirt bottoms",)),
    Noun(("Dresses",), ("dress",), ("frock",), ("one-piece frock",)),
    Noun(("Jumpsuit", "Rompers"), ("jumpsuit",), ("all-in-one", "playsuit"), ("coverall",)),
    Noun(("Sarees",), ("saree",), ("sari",), ("six-yard drape",)),
    Noun(("Kurta Sets",), ("kurta set",), ("indian two-piece",), ("co-ord salwar suit",)),
    Noun(("Dupatta",), ("dupatta",), ("chunni",), ("odhni",)),
    Noun(("Stoles",), ("stole",), ("wrap", "shawl"), ("shoulder drape",)),
    Noun(("Scarves",), ("scarf",), ("neckerchief",), ("foulard",)),
    Noun(("Mufflers",), ("muffler",), ("woollen neck warmer",), ("knitted neckwear",)),
    Noun(("Scarves", "Stoles", "Mufflers"), (), (), ("neck wraps",)),
    Noun(("Salwar",), ("salwar",), ("loose indian pants",), ("shalwar",)),
    Noun(("Patiala",), ("patiala",), ("baggy pleated pants",), ("pleated shalwar",)),
    Noun(("Churidar",), ("churidar",), ("gathered ankle pants",), ("bias-cut pyjama",)),
    Noun(("Salwar", "Patiala", "Churidar"), (), ("indian bottoms",), ()),
    Noun(("Night suits",), ("night suit",), ("pyjamas", "pjs"), ("two-piece sleepwear",)),
    Noun(("Lounge Pants",), ("lounge pants",), ("pj bottoms",), ("sleep trousers",)),
    Noun(("Lounge Shorts",), ("lounge shorts",), ("pj shorts",), ("sleep shorts",)),
    Noun(("Bath Robe", "Robe"), ("bath robe",), ("dressing gown",), ("housecoat",)),
    Noun(("Casual Shoes",), ("casual shoes",), ("leisure shoes",), ("leisure footwear",)),
    Noun(("Sports Shoes",), ("sports shoes",), ("runners", "athletic shoes"), ("performance footwear",)),
    Noun(("Casual Shoes", "Sports Shoes"), (), ("sneakers", "trainers", "kicks"), ()),
    Noun(("Formal Shoes",), ("formal shoes",), ("smart shoes", "suit shoes"), ("business footwear",)),
    Noun(("Heels",), ("heels",), ("high heels",), ("heeled footwear",)),
    Noun(("Flats",), ("flats",), ("flat shoes",), ("heelless footwear",)),
    Noun(("Sandals",), ("sandals",), ("open shoes",)),
    Noun(("Sports Sandals",), ("sports sandals",), ("trekking floaters",), ("hook-and-loop floaters",)),
    Noun(("Flip Flops",), ("flip flops",), ("chappals", "beach slippers"), ("toe-post footwear",)),
    Noun(("Sandals", "Sports Sandals", "Flip Flops"), (), (), ("open-toe footwear",)),
    Noun(("Watches",), ("watch",), ("wristwatch",), ("timepiece",)),
    Noun(("Sunglasses",), ("sunglasses",), ("shades", "sunnies"), ("uv eyewear",)),
    Noun(("Handbags",), ("handbag",), ("shoulder bag",), ("ladies' bag",)),
    Noun(("Clutches",), ("clutch",), ("evening purse",), ("pochette",)),
    Noun(("Backpacks",), ("backpack",), ("school bag", "knapsack"), ("daypack",)),
    Noun(("Rucksacks",), ("rucksack",), ("hiking pack",), ("trekking pack",)),
    Noun(("Duffel Bag",), ("duffel bag",), ("gym bag", "holdall"), ("weekender",)),
    Noun(("Laptop Bag",), ("laptop bag",), ("computer bag",), ("notebook carrier",)),
    Noun(("Messenger Bag",), ("messenger bag",), ("courier bag",), ("satchel",)),
    Noun(("Waist Pouch",), ("waist pouch",), ("bum bag", "fanny pack"), ("hip pack",)),
    Noun(("Mobile Pouch",), ("mobile pouch",), ("phone case",), ("handset sleeve",)),
    Noun(("Duffel Bag", "Trolley Bag", "Rucksacks"), (), ("luggage",), ()),
    Noun(("Wallets",), ("wallet",), ("money holder",), ("billfold",)),
    Noun(("Belts",), ("belt",), ("waist strap",), ("buckled strap",)),
    Noun(("Suspenders",), ("suspenders",), ("braces",), ("y-back straps",)),
    Noun(("Ties",), ("tie",), ("necktie",), ("neckwear",)),
    Noun(("Cufflinks",), ("cufflinks",), ("cuff buttons",), ("cuff studs",)),
    Noun(("Socks",), ("socks",)),
    Noun(("Socks", "Stockings"), (), (), ("hosiery",)),
    Noun(("Caps",), ("cap",), ("baseball hat",), ("peaked headgear",)),
    Noun(("Headband", "Wristbands"), (), ("sweatbands",), ("terry bands",)),
    Noun(("Gloves",), ("gloves",), ("hand warmers",), ("handwear",)),
    Noun(("Umbrellas",), ("umbrella",), ("brolly",), ("rain canopy",)),
    Noun(("Water Bottle",), ("water bottle",), ("drinks flask",), ("sipper",)),
    Noun(("Earrings",), ("earrings",), ("ear jewels",), ("ear ornaments",)),
    Noun(("Pendant",), ("pendant",), ("locket",), ("drop on a chain",)),
    Noun(("Necklace and Chains",), ("necklace",), ("neck chain",)),
    Noun(("Pendant", "Necklace and Chains"), (), (), ("neckpiece",)),
    Noun(("Ring",), ("ring",), ("finger band",), ("finger jewellery",)),
    Noun(("Bangle",), ("bangle",), ("choodi",), ("rigid bracelet",)),
    Noun(("Bracelet",), ("bracelet",), ("wrist chain",), ("link wristlet",)),
    Noun(("Bangle", "Bracelet"), (), (), ("wrist jewels",)),
    Noun(("Jewellery Set",), ("jewellery set",), ("matching necklace and earrings",), ("parure",)),
    Noun(("Lipstick",), ("lipstick",), ("lip colour", "lippy"), ("lip rouge",)),
    Noun(("Lip Gloss",), ("lip gloss",), ("lip shine",), ("lip lacquer",)),
    Noun(("Lip Liner",), ("lip liner",), ("lip pencil",), ("lip contour",)),
    Noun(("Lip Care",), ("lip care",), ("lip balm",), ("chapstick",)),
    Noun(("Nail Polish",), ("nail polish",), ("nail paint", "nail varnish"), ("nail lacquer",)),
    Noun(("Kajal and Eyeliner",), ("kajal", "eyeliner"), ("eye pencil",), ("kohl",)),
    Noun(("Eyeshadow",), ("eyeshadow",), ("colour for eyelids",), ("lid palette",)),
    Noun(("Mascara",), ("mascara",), ("lash makeup",), ("lash volumiser",)),
    Noun(("Foundation and Primer",), ("foundation",), ("base makeup",), ("complexion base",)),
    Noun(("Compact",), ("compact",), ("face powder",), ("pressed powder",)),
    Noun(("Highlighter and Blush",), ("blush",), ("cheek colour",), ("blusher",)),
    Noun(("Perfume and Body Mist",), ("perfume",), ("scent", "cologne"), ("fine fragrance",)),
    Noun(("Deodorant",), ("deodorant",), ("deo", "body spray"), ("anti-odour spray",)),
    Noun(("Fragrance Gift Set",), ("fragrance gift set",), ("fragrance hamper",), ("edt coffret",)),
    Noun(("Face Moisturisers",), ("moisturiser",), ("face cream",), ("hydrating emulsion",)),
    Noun(("Face Wash and Cleanser",), ("face wash",), ("face soap",), ("facial cleanser",)),
    Noun(("Sunscreen",), ("sunscreen",), ("sun cream",), ("spf lotion",)),
    Noun(("Hair Colour",), ("hair colour",), ("hair dye",), ("hair tint",)),
    Noun(("Mask and Peel",), ("face mask",), ("face pack",), ("facial masque",)),
    Noun(("Footballs", "Basketballs"), ("football or basketball",), ("ball to play with",), ("match ball",)),
)
"""What is asked for. A word like "sneakers" means more than one of the catalogue's types."""

FAMILIES = (
    ("Tshirts", "Tops", "Shirts"), ("Kurtas", "Kurtis", "Tunics"), ("Sweaters", "Sweatshirts", "Jackets"),
    ("Jackets", "Rain Jacket", "Blazers", "Waistcoat", "Nehru Jackets"), ("Jeans", "Trousers", "Jeggings", "Capris"),
    ("Track Pants", "Tracksuits", "Lounge Pants", "Leggings", "Tights"), ("Shorts", "Lounge Shorts", "Capris"),
    ("Dresses", "Skirts", "Jumpsuit", "Rompers"), ("Sarees", "Lehenga Choli", "Kurta Sets"),
    ("Dupatta", "Stoles", "Scarves", "Mufflers"), ("Salwar", "Patiala", "Churidar", "Salwar and Dupatta"),
    ("Night suits", "Nightdress", "Lounge Pants", "Lounge Shorts", "Lounge Tshirts"), ("Bath Robe", "Robe"),
    ("Casual Shoes", "Sports Shoes", "Formal Shoes"), ("Heels", "Flats", "Sandals"), ("Ties", "Cufflinks"),
    ("Sandals", "Sports Sandals", "Flip Flops"), ("Handbags", "Clutches", "Messenger Bag"), ("Caps", "Hat", "Headband"),
    ("Backpacks", "Rucksacks", "Laptop Bag", "Messenger Bag"), ("Duffel Bag", "Trolley Bag", "Rucksacks"),
    ("Waist Pouch", "Mobile Pouch"), ("Socks", "Stockings", "Booties"), ("Ring", "Bangle", "Bracelet"),
    ("Earrings", "Pendant", "Necklace and Chains", "Jewellery Set"), ("Kajal and Eyeliner", "Eyeshadow", "Mascara"),
    ("Lipstick", "Lip Gloss", "Lip Liner", "Lip Care"), ("Belts", "Suspenders"),
    ("Mask and Peel", "Face Scrub and Exfoliator", "Face Wash and Cleanser", "Toner"),
    ("Foundation and Primer", "Compact", "Concealer", "Highlighter and Blush"), ("Sunscreen", "Face Moisturisers"),
    ("Perfume and Body Mist", "Deodorant", "Fragrance Gift Set"), ("Footballs", "Basketballs"),
)
"""Types that are siblings: one of them that has all that was asked for is of some use instead of another."""

COLOURS = {
    "Black": ("black", "jet black"), "White": ("white", "snow white"), "Blue": ("blue",), "Brown": ("brown",),
    "Grey": ("grey", "gray"), "Red": ("red", "bright red"), "Green": ("green",), "Pink": ("pink", "rosy pink"),
    "Navy Blue": ("navy", "dark blue"), "Purple": ("purple", "violet"), "Silver": ("silver coloured", "silvery"),
    "Yellow": ("yellow", "sunny yellow"), "Beige": ("beige", "sand coloured"), "Gold": ("golden", "gold tone"),
    "Maroon": ("wine red", "dark red"), "Orange": ("orange",), "Olive": ("olive green", "army green"),
    "Multi": ("multicoloured", "colourful"), "Cream": ("creamy white", "vanilla coloured"),
    "Steel": ("steel coloured", "stainless"), "Charcoal": ("dark grey", "anthracite"), "Peach": ("apricot coloured",),
    "Off White": ("ivory", "eggshell"), "Lavender": ("lilac",), "Khaki": ("khaki brown",), "Magenta": ("fuchsia",),
    "Grey Melange": ("mottled grey", "heather grey"), "Teal": ("petrol blue",), "Tan": ("light brown", "camel"),
    "Mustard": ("dark yellow", "ochre"), "Bronze": ("bronze tone",), "Copper": ("coppery",), "Rust": ("rusty orange",),
    "Turquoise Blue": ("aqua",), "Burgundy": ("bordeaux",), "Coffee Brown": ("chocolate coloured",),
    "Rose": ("dusky pink",), "Mauve": ("pale purple",), "Nude": ("flesh tone",), "Sea Green": ("sea-foam green",),
    "Lime Green": ("lime",),
}
NEAR_COLOURS = (
    ("Blue", "Navy Blue"), ("Blue", "Turquoise Blue"), ("Turquoise Blue", "Teal"), ("Teal", "Sea Green"),
    ("Grey", "Charcoal"), ("Grey", "Grey Melange"), ("Grey", "Silver"), ("Silver", "Steel"), ("Steel", "Metallic"),
    ("Silver", "Metallic"), ("Black", "Charcoal"), ("White", "Off White"), ("Off White", "Cream"), ("Cream", "Beige"),
    ("Beige", "Nude"), ("Beige", "Khaki"), ("Beige", "Tan"), ("Beige", "Skin"), ("Nude", "Skin"), ("Brown", "Tan"),
    ("Brown", "Coffee Brown"), ("Brown", "Mushroom Brown"), ("Brown", "Rust"), ("Brown", "Bronze"), ("Taupe", "Grey"),
    ("Bronze", "Copper"), ("Gold", "Bronze"), ("Red", "Maroon"), ("Maroon", "Burgundy"), ("Red", "Burgundy"),
    ("Orange", "Rust"), ("Orange", "Peach"), ("Yellow", "Mustard"), ("Mustard", "Gold"), ("Green", "Olive"),
    ("Green", "Sea Green"), ("Green", "Lime Green"), ("Lime Green", "Fluorescent Green"), ("Olive", "Khaki"),
    ("Pink", "Magenta"), ("Pink", "Rose"), ("Pink", "Peach"), ("Purple", "Lavender"), ("Purple", "Mauve"),
    ("Lavender", "Mauve"), ("Magenta", "Purple"),
)
"""Pairs of colours of which one will nearly do for the other."""

GENDERS = {
    ("Men",): ("for men", "for him", "for my husband", "for my dad", "men's", "gents"),
    ("Women",): ("for women", "for her", "for my wife", "for my mum", "women's", "ladies"),
    ("Boys",): ("for my son", "for boys", "for a schoolboy"),
    ("Girls",): ("for my daughter", "for girls", "for a little girl"),
    ("Boys", "Girls"): ("for kids", "for children", "for my child"),
}
USAGES = {
    "Casual": ("for everyday", "for weekends", "for day to day"),
    "Sports": ("for the gym", "for working out", "for training", "sporty"),
    "Formal": ("for the office", "for work", "for a job interview", "businesslike"),
    "Ethnic": ("traditional", "for diwali", "for a family function"),
    "Smart Casual": ("for a dinner date",),
    "Party": ("for a night out", "for a party"),
    "Travel": ("for a trip", "for travelling"),
}
SEASONS = {
    "Summer": ("for hot days", "for the heat"), "Winter": ("for cold days", "for the cold"),
    "Spring": ("for the first mild days",), "Fall": ("for autumn",),
}
"""The collection that the shop put a product into."""

NEAR_VALUES = {
    "colour": NEAR_COLOURS,
    "gender": (("Men", "Unisex"), ("Women", "Unisex")),
    "usage": (("Casual", "Smart Casual"), ("Formal", "Smart Casual"), ("Party", "Smart Casual")),
    "season": (("Summer", "Spring"), ("Winter", "Fall")),
}

SEASONAL = frozenset((
    "Tshirts", "Shirts", "Tops", "Tunics", "Kurtas", "Kurtis", "Sweaters", "Sweatshirts", "Jackets", "Jeans",
    "Trousers", "Shorts", "Capris", "Skirts", "Dresses", "Leggings", "Stoles", "Scarves",
))
"""Types that are asked for by season."""

SCENTS_AND_CARE = frozenset((
    "Perfume and Body Mist", "Deodorant", "Fragrance Gift Set", "Face Moisturisers", "Face Wash and Cleanser",
    "Sunscreen", "Mask and Peel", "Lip Care", "Hair Colour", "Body Lotion", "Makeup Remover",
))
"""Types that are asked for without colour or occasion: the colour is that of the bottle."""

MAKEUP = frozenset((
    "Lipstick", "Lip Gloss", "Lip Liner", "Nail Polish", "Kajal and Eyeliner", "Eyeshadow", "Mascara",
    "Foundation and Primer", "Compact", "Concealer", "Highlighter and Blush",
))
"""Types that are asked for without occasion."""
# fmt: on
