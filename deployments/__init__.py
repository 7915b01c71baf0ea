"""Ray Serve: thin classes around the stages, the router, and how they are composed."""
