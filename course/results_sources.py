"""Describe the sources on the page of results: what each is, and which of its metrics are shown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """One table: the title says what was asked; `metrics` are its columns, named as in the CSV."""

    title: str
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """One section: the results on one source of products."""

    title: str
    about: str
    tasks: tuple[Task, ...]


SEARCH = Task("Search", ("nDCG@10", "R@10", "R@100", "MRR"))
SOURCES = {
    "pocket_shop": Source(
        "The pocket shop",
        "The course's own shop: 4,500 generated products, seven kinds of queries, and the true grade of every "
        "query-product pair, so that no figure depends on what was judged.",
        (
            SEARCH,
            Task(
                "From text to picture and back",
                ("text to image R@1", "text to image R@10", "image to text R@1", "image to text R@10"),
            ),
            Task(
                "The category of a picture",
                ("category top-1", "category top-5", "category tail recall", "category macro-F1"),
            ),
            Task("Which products go together (AUC), and which fills the gap of an outfit (FITB)", ("AUC", "FITB")),
            Task(
                "The category path of a product, of its own list and of all paths",
                (
                    "category, listed Acc@1",
                    "category, listed MRR",
                    "category, taxonomy Acc@1",
                    "category, taxonomy macro R@1",
                ),
            ),
        ),
    ),
    "chorus_icecat": Source(
        "Chorus/Icecat",
        "19,406 real electronics products, 68 development queries with human grades; weights are cross-validated over "
        "these queries, and no model was trained on their grades.",
        (
            SEARCH,
            Task("How much of what is shown was judged, and nDCG without the rest (`*`)", ("Judged@10", "nDCG@10*")),
        ),
    ),
    "fashion_products": Source(
        "Fashion products",
        "42,445 real products of a fashion shop, with title and photo. A photo is found by its product's title, as the "
        "shop wrote it, among 1,000 products that no training saw. The towers come from packages: EfficientNet-Lite0 "
        "and MiniLM.",
        (
            Task(
                "From text to photo and back, in a pool of 1,000 products",
                ("text to image R@1", "text to image R@10", "text to image MRR", "image to text R@1"),
            ),
            Task(
                "The type of a product, off its photo (tail: the third of the types that are rarest in training)",
                ("type macro-F1", "gain in type macro-F1", "type top-1", "gain in type top-1", "type macro-F1, tail"),
            ),
        ),
    ),
    "grocery_store": Source(
        "Grocery Store",
        "Real photos taken in shops, 81 classes. The towers come from packages, EfficientNet-Lite0 and MiniLM, and "
        "were aligned on the fashion products (pictures of 224 pixels, taken after a look at the measured photos at "
        "128); the classifiers on thinned photos read the course's own small CLIP.",
        (
            Task(
                "Photos of a class, found by its description (text) and by its name",
                ("text to photo R@1", "text to photo R@10", "name to photo R@1", "name to photo R@10"),
            ),
            Task(
                "From a photo to its class's description, and to its catalogue picture",
                ("photo to text R@1", "photo to text R@10", "photo to iconic R@1", "photo to iconic R@10"),
            ),
            Task(
                "The class of a photo",
                (
                    "fine top-1 (prompts)",
                    "fine top-1 (linear probe)",
                    "fine macro-F1 (linear probe)",
                    "coarse top-1 (linear probe)",
                ),
            ),
            Task(
                "The class of a photo, where rare classes are made rarer: held-out photos of shops that training knows",
                ("fine macro-F1", "gain in fine macro-F1", "fine top-1", "gain in fine top-1"),
            ),
        ),
    ),
    "luma": Source(
        "Luma",
        "Magento's sample shop: its merchants' links between products.",
        (
            Task(
                "Which products go together (AUC), and which fills the gap (FITB)",
                ("AUC", "AUC, one or both unseen", "FITB"),
            ),
        ),
    ),
    "abo": Source(
        "Amazon Berkeley Objects",
        "Real product titles in English; the category path is found among 1,592.",
        (
            Task("The category path of a title", ("R@1", "R@10", "MRR", "macro R@1")),
            Task(
                "The same of products that share no title, photo or item with training",
                ("new products R@1", "new products R@10", "new products MRR"),
            ),
        ),
    ),
    "shopify_taxonomy": Source(
        "Shopify's taxonomy",
        "Google's path for a path of Shopify's, among 5,456; whole parents are held out of training.",
        (Task("The path on the other side", ("R@1", "R@10", "MRR", "macro R@1")),),
    ),
}
