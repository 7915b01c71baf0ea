"""The domain of the embedded model: scenes, their captions and their pictures."""
