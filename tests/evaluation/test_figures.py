from nat_ar.evaluation import figures


def test_no_two_methods_look_alike() -> None:
    methods = [f"method {number}" for number in range(20)]
    assert len({figures.style_of(method, methods) for method in methods}) == 20
