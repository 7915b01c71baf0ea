"""Reads pictures back into scenes, to measure how well a prompt was followed. Needs OpenCV."""
