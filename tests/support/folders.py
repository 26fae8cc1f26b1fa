"""Compare folders before and after."""


def listing(folder):
    """Everything in a folder, hidden or not, with its kind and content; None while somebody removes some of it."""
    try:
        return {
            str(path.relative_to(folder)): path.read_bytes() if path.is_file() else "folder"
            for path in folder.rglob("*")
        }
    except FileNotFoundError:
        return None
