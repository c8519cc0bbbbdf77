"""``python -m effcli``."""

from effcli.cli.main import main

if __name__ == "__main__":
    main()
