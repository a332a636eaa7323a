"""One service over everything that the chapters built: an API for applications, and a page for people."""
