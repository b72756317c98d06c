"""The benchmark: scenes x splits x methods x seeds, held-out quality and cost, beside published figures."""
