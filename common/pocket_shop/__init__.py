"""The pocket shop: a generated shop that knows the truth for every query and product. See `shop.build_catalogue`."""
