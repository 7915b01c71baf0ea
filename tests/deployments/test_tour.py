from deployments.commands.tour import Stop, describe

STOP = Stop("512x512", path="tiled")


def test_a_line_names_pool_path_and_reason() -> None:
    answer = {
        "path": "tiled",
        "timings": {"total_ms": 1234.5},
        "routing": {"pool": "cards", "explanation": "the only one", "estimate_ms": 1000.0},
    }

    words = describe(STOP, 200, answer).split()

    assert words[:5] == ["512x512", "interactive", "tiled", "cards", "tiled"]
    assert words[-3:] == ["the", "only", "one"]


def test_a_refusal_is_told_in_its_own_words() -> None:
    refusal = {"error": {"message": "no pool is up"}}

    assert describe(STOP, 503, refusal).endswith("no pool is up")
