from nat_ar.evaluation import figures


def test_no_two_methods_look_alike_and_those_of_family_ar_are_black() -> None:
    rows = [{"method": f"method {i}", "family": "AR" if i < 3 else "NAT"} for i in range(20)]
    styles = figures.styles(rows)
    assert len({*styles.values()}) == 20
    black = [method for method, (colour, _) in styles.items() if colour == figures.INK]
    assert black == ["method 0", "method 1", "method 2"]
