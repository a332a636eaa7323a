"""The roof of the course: what spans the chapters. The only package that may import all of them."""
