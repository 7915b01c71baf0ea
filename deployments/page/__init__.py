"""The page at `/`: three static files, and the routes that send them."""
