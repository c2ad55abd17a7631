"""`python -m kito` is the command `kito`."""

from kito.cli import main

if __name__ == "__main__":
    main()
