def pytest_addoption(parser):
    parser.addoption(
        "--seed", type=int, help="of freshly drawn cases, as a benchmark printed it; default: a new one"
    )
