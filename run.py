#!/usr/bin/env python3
"""Set DiffRender up and run it. Nothing but Python 3.10 to 3.12 is needed beforehand.

  python run.py demo [--ct FILE]    every pipeline on a phantom, or on your CT: demo/index.html
  python run.py test [...]          the tests; further arguments go to pytest. Those of the bridge to
                                    3D Slicer run in .venv-slicer, which this makes where it can
  python run.py bench [...]         the benchmarks
  python run.py COMMAND [...]       a command of the library: radiograph, info, doctor, samples, ...

  --wheelhouse DIR                  install without network, from a folder of wheels

The first start makes the folder .venv and installs what constraints.txt names; later ones find it standing.
"""
# Standard library only, and in words that Python 2.7 can read too: whoever starts this with a Python that is too old
# must get a sentence, no SyntaxError. Hence no f-strings and no annotations here.

from __future__ import print_function

import ast
import ctypes.util
import hashlib
import io
import json
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.abspath(__file__))
ENVIRONMENT = os.path.join(ROOT, ".venv")
CONSTRAINTS = os.path.join(ROOT, "constraints.txt")
SLICER = os.path.join(ROOT, ".venv-slicer")
# 3D Slicer's classes without Slicer, the VTK they want, and Qt for the stand-in of its desktop
SLICER_CORE = ("slicer-core==5.13.31053.0", "vtk==9.6.2", "PySide6-Essentials==6.12.0", "shiboken6==6.12.0")
SLICER_TESTS = (os.path.join("Testing", "mrml"), os.path.join("Testing", "host"))
RENDERING = {"EGL": "libegl1", "GL": "libgl1"}  # what ctypes looks for: Debian's package of it
WINDOWS = {
    "xkbcommon": "libxkbcommon0",
    "fontconfig": "libfontconfig1",
    "dbus-1": "libdbus-1-3",
    "glib-2.0": "libglib2.0-0",
}
NOTHING_COLLECTED = 5  # pytest's exit status where no test fits the arguments
EXTRAS = ("fast", "learn", "search", "cluster", "test")
SUITABLE = ((3, 11), (3, 12), (3, 10))  # in the order of preference: constraints.txt was tried on the first
OLDEST_TORCH = (2, 2)
OLDEST_PIP = (24, 1)  # from here on pip finds out what it would install without downloading all of it
PATIENCE = 180  # [s] for that; an index that sends whole files only is not waited for
# What a torch of another version may want otherwise than constraints.txt says.
TIED_TO_TORCH = re.compile(
    r"(cuda|nvidia)-.*|filelock|fsspec|jinja2|markupsafe|monai|mpmath|networkx|setuptools|sympy|triton|typing-extensions"
)
INTERRUPTED = 130


class SetupError(Exception):
    """One sentence for the person who typed the command: why this cannot go on, and what to do."""


def main(arguments):
    try:
        return start(arguments)
    except SetupError as error:
        say(str(error))
    except EnvironmentError as error:  # Python 2.7 has it apart from OSError
        say(sentence_for(str(error), ROOT) or "This stopped at {0}.".format(error))
    except KeyboardInterrupt:
        say("Stopped. The same command goes on from here.")
        return INTERRUPTED
    return 2


def start(arguments):
    wheelhouse, words = take_wheelhouse(arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print((__doc__ or "").strip())
        return 0 if words else 2
    if sys.version_info[:2] not in SUITABLE:
        return become(other_python() + [os.path.abspath(__file__)] + arguments)
    python = ensure_environment(ENVIRONMENT, project_requirements(*EXTRAS), CONSTRAINTS, wheelhouse)
    if words[0] in ("test", "bench"):
        os.chdir(ROOT)
    if words[0] == "test":
        return run_tests(python, words[1:], wheelhouse)
    programs = {"bench": [os.path.join("Testing", "benchmarks", "run.py")]}
    return become([python] + programs.get(words[0], ["-m", "diffrender", words[0]]) + words[1:])


def take_wheelhouse(arguments):
    """The folder given with --wheelhouse (or None), and the other arguments."""
    words, folder = [], None
    rest = iter(arguments)
    for word in rest:
        if word.startswith("--wheelhouse"):
            folder = word.partition("=")[2] or next(rest, "")
        else:
            words.append(word)
    if folder is not None and not os.path.isdir(folder):
        raise SetupError("--wheelhouse needs a folder of wheels, and '{0}' is no folder.".format(folder))
    return folder and os.path.abspath(folder), words


def say(sentence):
    print("run.py: " + sentence, file=sys.stderr)
    sys.stderr.flush()


def become(command):
    """Go on as `command`: it gets Ctrl-C itself, and its exit status is ours."""
    sys.stdout.flush()
    environment = dict(os.environ, PYTHONUTF8="1")  # names of files and people, on every console and pipe
    if os.name != "nt":
        os.execvpe(command[0], command, environment)
    child = subprocess.Popen(command, env=environment)
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            pass  # the child has got it too, and is saving


# The tests


def run_tests(python, words, wheelhouse):
    """pytest on the library, and on what needs Slicer's classes in an environment that has them."""
    places = [word for word in words if os.path.exists(word.partition("::")[0])]
    options = [word for word in words if word not in places]
    asked = {folder: [word for word in places if lies_in(word, folder)] for folder in SLICER_TESTS}
    library = [word for word in places if not any(lies_in(word, folder) for folder in SLICER_TESTS)]
    statuses = []
    slicer = ensure_slicer(python, wheelhouse) if len(library) < len(places) or not places else None
    for folder in SLICER_TESTS if slicer else ():  # one after the other: each puts its own things into slicer
        if asked[folder] or not places:
            statuses.append(wait_for([slicer, "-m", "pytest"] + options + (asked[folder] or [folder])))
    if library or not places:
        statuses.append(wait_for([python, "-m", "pytest"] + options + library))
    ran = [status for status in statuses if status != NOTHING_COLLECTED] or statuses
    return ([status for status in ran if status] + [0])[0]


def lies_in(word, folder):
    return os.path.abspath(word).startswith(os.path.join(ROOT, folder))


def ensure_slicer(python, wheelhouse):
    """The python of an environment with all that `python` has, and slicer-core; None, said, where it cannot be."""
    mine, asked = python_in(SLICER), " ".join(SLICER_CORE + (version_of(python),))
    if version_of(mine) and read(stamp_in(SLICER)) == asked:
        return mine
    say("making {0} with {1}, some 300 MB, for the tests of what belongs to Slicer.".format(SLICER, SLICER_CORE[0]))
    ensure_system_libraries(WINDOWS)
    status, _, errors = run_quietly([python, "-m", "venv", "--clear", SLICER])
    if not status:
        wanted = ["install", "--quiet", "--no-user", "--no-deps", "--only-binary=:all:"] + list(SLICER_CORE)
        offline = ["--no-index", "--find-links", wheelhouse] if wheelhouse else []
        status, _, errors = run_pip(mine, wanted + offline)
    if status:
        reason = sentence_for(errors, SLICER) or last_line(errors)
        skipped = " and ".join(SLICER_TESTS)
        say("the tests in {0} are skipped, since they need {1}: {2}".format(skipped, SLICER_CORE[0], reason))
        return None
    link_to_project(SLICER)
    theirs = ascii(os.path.relpath(packages_in(ENVIRONMENT), SLICER))  # behind its own packages: its VTK comes first
    line = u"import os, sys; sys.path.append(os.path.normpath(os.path.join(sys.prefix, {0})))\n".format(theirs)
    write(os.path.join(packages_in(SLICER), "diffrender-library.pth"), line)
    write(stamp_in(SLICER), u"" + asked)
    return mine


def wait_for(command):
    """The exit status of `command`, which gets Ctrl-C too, and tidies up."""
    sys.stdout.flush()
    child = subprocess.Popen(command, env=dict(os.environ, PYTHONUTF8="1"))
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.wait()
        raise


# Which Python


def other_python():
    """The command of a SUITABLE Python on this machine, which is not the one that reads this."""
    this = "Python {0}.{1}".format(*sys.version_info[:2])
    commands = [[python_in(ENVIRONMENT)]]
    for version in SUITABLE:
        commands += [["py", "-{0}.{1}".format(*version)]] if os.name == "nt" else []
        commands += [["python{0}.{1}".format(*version)]]
    for command in commands:
        if version_of(*command):
            say("{0} is not one of 3.10 to 3.12; going on with {1}.".format(this, " ".join(command)))
            return command
    raise SetupError(
        "DiffRender needs Python 3.10 to 3.12, this is {0}, and no other one was found here; "
        "install Python 3.11 and type the same again.".format(this)
    )


def version_of(*command):
    """The version of the Python that `command` starts: '3.11.7'; '' where it does not start or is not SUITABLE."""
    question = "import sys; print('.'.join(map(str, sys.version_info[:3])))"
    status, answer, _ = run_quietly(list(command) + ["-c", question])
    return answer.strip() if status == 0 and numbers(answer)[:2] in SUITABLE else ""


def numbers(version):
    """'2.13.0+cpu' as (2, 13, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))


# The environment


def ensure_environment(folder, requirements, constraints=None, wheelhouse=None):
    """Make `folder` a virtual environment that holds `requirements`, and return its python.

    Args:
        folder: where it stands or is to stand. One made by other means is taken over as it is.
        requirements: as pip takes them, e.g. ["numpy>=1.26", "vtk"].
        constraints: a file of exact versions; torch and numpy that are installed already keep theirs.
        wheelhouse: a folder of wheels to install from instead of the network.
    Raises: SetupError, with one sentence, where it cannot be made (no network, no space, no permission, ...).

    This module's own packages can be imported in it. When nothing has changed since the last call this takes
    milliseconds: a stamp in the folder, written last, holds what was asked for and what was installed.
    """
    folder = os.path.abspath(folder)
    pinned = read(constraints) if constraints else u""
    python = python_in(folder)
    version = version_of(python)
    if version and read(stamp_in(folder)) == fingerprint(folder, version, requirements, pinned):
        return python
    ensure_system_libraries(RENDERING)
    if not version:
        make_environment(folder)
        version = version_of(python)
    ensure_pip(folder)
    install(folder, requirements, pinned, wheelhouse)
    link_to_project(folder)
    write(stamp_in(folder), fingerprint(folder, version, requirements, pinned))
    return python


def python_in(folder):
    return os.path.join(folder, "Scripts", "python.exe") if os.name == "nt" else os.path.join(folder, "bin", "python")


def packages_in(folder):
    if os.name == "nt":
        return os.path.join(folder, "Lib", "site-packages")
    library = os.path.join(folder, "lib")
    pythons = [name for name in list_folder(library) if numbers(name)[:2] in SUITABLE]
    return os.path.join(library, pythons[0] if pythons else "python", "site-packages")


def stamp_in(folder):
    return os.path.join(folder, "diffrender-stamp.txt")


def list_folder(folder):
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def read(path):
    if not os.path.isfile(path):
        return u""
    with io.open(path, encoding="utf-8") as file:
        return file.read()


def write(path, text):
    with io.open(path, "w", encoding="utf-8") as file:
        file.write(text)


def fingerprint(folder, version, requirements, pinned):
    """What was asked for and what is installed, as one number: either may change between two starts."""
    installed = [name for name in list_folder(packages_in(folder)) if name.endswith(".dist-info")]
    everything = json.dumps([version, list(requirements), pinned, installed])
    return u"" + hashlib.sha256(everything.encode("utf-8")).hexdigest()


def project_requirements(*extras):
    """What pyproject.toml asks for, with these extras. Python 3.10 reads no TOML; a list of strings is Python's too."""
    text = read(os.path.join(ROOT, "pyproject.toml"))
    requirements = []
    for name in ("dependencies",) + extras:
        for body in re.findall(r"^{0} = (\[.*?\])$".format(name), text, re.MULTILINE | re.DOTALL):
            requirements += ast.literal_eval(body)
    return requirements


def plain(name):
    """A package's name as the index writes it: 'Typing_Extensions' is 'typing-extensions'."""
    return re.sub(r"[-_.]+", "-", name).lower()


def versions_in(folder, ending):
    """{name: version} of what lies in `folder` as NAME-VERSION... with this ending."""
    found = {}
    for name in list_folder(folder):
        if name.endswith(ending) and name.count("-") > 0:
            package, version = name[: -len(ending)].split("-")[:2]
            found[plain(package)] = version
    return found


def make_environment(folder):
    if list_folder(folder) or os.path.islink(folder):
        say("{0} is broken, or of another Python: making it anew.".format(folder))
    else:
        say("making {0} with Python {1}.{2}.".format(folder, *sys.version_info[:2]))
    base = getattr(sys, "_base_executable", None) or sys.executable  # not the python of the folder to be cleared
    status, _, errors = run_quietly([base, "-m", "venv", "--without-pip", "--clear", folder])
    if status:
        raise SetupError(
            sentence_for(errors, folder)
            or "The virtual environment {0} could not be made ({1}).".format(folder, last_line(errors))
        )


def ensure_pip(folder):
    if run_pip(python_in(folder), ["--version"])[0] == 0:
        return
    ensure_venv_module()
    status, _, errors = run_quietly([python_in(folder), "-m", "ensurepip", "--default-pip"])
    if status:
        raise SetupError(
            sentence_for(errors, folder)
            or "pip does not start in {0} ({1}): delete this folder and type the same again.".format(
                folder, last_line(errors)
            )
        )


# What the system must bring


def ensure_venv_module():
    """Debian and Ubuntu leave out of Python what makes virtual environments."""
    from importlib.util import find_spec

    package = "python{0}.{1}-venv".format(*sys.version_info[:2])
    if not find_spec("ensurepip") and not apt_install([package]):
        raise SetupError(
            "This Python has no ensurepip, which virtual environments need; on Debian or Ubuntu type "
            "'sudo apt-get install {0}', then the same again.".format(package)
        )


def ensure_system_libraries(libraries):
    """Drawing without a screen needs libraries of the system. Where they cannot be installed, say how, and go on."""
    if not sys.platform.startswith("linux"):
        return
    missing = [libraries[name] for name in sorted(libraries) if not ctypes.util.find_library(name)]
    if missing and not apt_install(missing):
        say(
            "drawing needs {0}; to have it, type 'sudo apt-get install {0}' (on Debian and Ubuntu; elsewhere the "
            "packages with lib{1}). Going on without.".format(" ".join(missing), ", lib".join(sorted(libraries)))
        )


def apt_install(packages):
    """Install Debian packages, where this is Debian and we are root. False where it was not possible."""
    if not os.path.exists("/etc/debian_version") or os.geteuid() != 0:
        return False
    say("installing {0} with apt-get.".format(" ".join(packages)))
    command = ["apt-get", "install", "--yes", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=60"] + packages
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    for before in ([], ["apt-get", "update"]):  # a fresh machine has no lists of packages yet
        if before:
            run_quietly(before, environment)
        if run_quietly(command, environment)[0] == 0:
            return True
    return False


# pip


def install(folder, requirements, pinned, wheelhouse):
    python = python_in(folder)
    installed = versions_in(packages_in(folder), ".dist-info")
    offered = versions_in(wheelhouse, ".whl") if wheelhouse else {}
    missing = [name for name in map(name_of, requirements) if name not in installed]
    used = os.path.join(folder, "diffrender-constraints.txt")
    write(used, hold_torch(pinned, installed, offered))
    arguments = ["--no-user", "--constraint", used] + list(requirements)
    if wheelhouse:
        arguments += ["--no-index", "--find-links", wheelhouse]
    elif missing:
        update_pip(python, used)
        say_size(folder, arguments, missing)
    if missing:
        say("installing {0} and what they need; this takes minutes.".format(in_words(missing)))
    quiet = [] if sys.stdout.isatty() else ["--quiet"]  # on a terminal pip draws its progress
    status, _, errors = run_pip(python, ["install"] + quiet + arguments, show=True)
    if status:
        raise SetupError(
            sentence_for(errors, folder)
            or (wheelhouse and lacking_in(wheelhouse, [name for name in missing if name not in offered], errors))
            or "pip could not install it: " + last_line(errors)
        )


def update_pip(python, constraints):
    version = run_pip(python, ["--version"])[1].split()[1:2]
    if numbers("".join(version))[:2] < OLDEST_PIP:
        run_pip(python, ["install", "--quiet", "--no-user", "--upgrade", "--constraint", constraints, "pip"])


def name_of(requirement):
    return plain(re.split(r"[^\w.-]", requirement.strip())[0])


def hold_torch(pinned, installed, offered):
    """`pinned`, with torch and numpy at the version that is installed already, or else offered in the wheelhouse."""
    names = {line: name_of(line) for line in pinned.splitlines() if re.match(r"\w", line)}
    locked = [numbers(line.partition(";")[0].partition("==")[2]) for line in names if names[line] == "torch"]
    torch = installed.get("torch") or offered.get("torch")
    if not torch or numbers(torch)[:2] < OLDEST_TORCH:
        return pinned
    held = {"torch": torch}
    if "torch" in installed and "numpy" in installed:
        held["numpy"] = installed["numpy"]
    foreign = numbers(torch) not in locked
    if foreign:
        say("keeping torch {0}, though constraints.txt was made with another.".format(torch))
    lines = [
        line
        for line in pinned.splitlines()
        if names.get(line) not in held and not (foreign and TIED_TO_TORCH.match(names.get(line, "")))
    ]
    return u"\n".join(lines + ["{0}=={1}".format(name, held[name]) for name in sorted(held)]) + u"\n"


def say_size(folder, arguments, missing):
    """Say what there is to download before it starts; where that cannot be found out, say this."""
    say("asking the package index what there is to download ...")
    found = look_up(folder, arguments)
    names = [one["metadata"]["name"] for one in found]
    sizes = measure([one["download_info"]["url"] for one in found], packages_in(folder))
    total, unknown = sum(sizes), sizes.count(0)
    if total:
        largest = sorted(zip(sizes, names), reverse=True)[:4]
        listed = ", ".join("{0} {1}".format(name, in_bytes(size)) for size, name in largest)
        rest = ", and {0} files whose size the index does not tell".format(unknown) if unknown else ""
        say("to download: up to {0} in {1} files ({2}){3}.".format(in_bytes(total), len(found), listed, rest))
    else:
        say("how large the download is could not be found out.")
    cuda = any(name.startswith("nvidia-") for name in names) or (sys.platform.startswith("linux") and not found)
    if cuda and "torch" in missing:
        say(
            "on Linux the package index has torch built for CUDA, several GB with all it needs; without an NVIDIA GPU, "
            "stop this and install a CPU build of torch into {0} beforehand, or give --wheelhouse a folder of wheels "
            "that has one.".format(folder)
        )
    free = free_space(folder)
    if total > free:
        raise SetupError("The disk of {0} has {1} free, and more is needed.".format(folder, in_bytes(free)))


def look_up(folder, arguments):
    """What pip would download, as its report lists it; empty where it does not say."""
    question = ["install", "--dry-run", "--quiet", "--use-feature=fast-deps", "--report", "-"]
    status, answer, errors = run_pip(python_in(folder), question + arguments, patience=PATIENCE)
    meaning = sentence_for(errors, folder) if status else ""
    if meaning:
        raise SetupError(meaning)
    return [] if status else json.loads(answer)["install"]


def measure(addresses, packages):
    """The size of each file [bytes], 0 where it cannot be found out."""
    import ssl
    from concurrent.futures import ThreadPoolExecutor
    from urllib.request import Request, url2pathname, urlopen

    trust = ssl.create_default_context()
    certificates = os.path.join(packages, "pip", "_vendor", "certifi", "cacert.pem")  # a Mac's Python brings none
    for file in (certificates, os.environ.get("PIP_CERT", "")):
        if os.path.isfile(file):
            trust.load_verify_locations(file)

    def size(address):
        try:
            if address.startswith("file:"):
                return os.path.getsize(url2pathname(address[len("file://") :]))
            with urlopen(Request(address, method="HEAD"), timeout=20, context=trust) as answer:
                return int(answer.headers["Content-Length"] or 0)
        except (OSError, ValueError):
            return 0

    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(size, addresses))


def free_space(folder):
    import shutil

    return shutil.disk_usage(folder).free


def in_bytes(size):
    return "{0:.1f} GB".format(size / 1e9) if size >= 1e9 else "{0:.1f} MB".format(size / 1e6)


def in_words(names):
    return ", ".join(names[:3]) + (", {0} more".format(len(names) - 3) if len(names) > 3 else "")


def run_pip(python, arguments, **how):
    return run_quietly([python, "-m", "pip", "--disable-pip-version-check", "--retries", "3"] + arguments, **how)


def run_quietly(command, environment=None, show=False, patience=None):
    """(status, output, errors) of a command; with `show` its output goes to the screen as it comes."""
    environment = dict(environment or os.environ, PYTHONUTF8="1")
    output = None if show else subprocess.PIPE
    try:
        child = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.PIPE)
    except OSError as error:
        return 127, "", str(error)
    try:
        output, errors = child.communicate(**({"timeout": patience} if patience else {}))
    except KeyboardInterrupt:
        child.wait()  # it has got Ctrl-C too, and tidies up
        raise
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return 124, "", ""
    return child.returncode, (output or b"").decode("utf-8", "replace"), errors.decode("utf-8", "replace")


# What a failure means

MEANINGS = (
    (
        r"No space left|Errno 28\b|ENOSPC|not enough space|WinError 112|Disk quota",
        "The disk is full: make room on the disk of {folder} (and of the temporary folder), then type the same again.",
    ),
    (
        r"Long Path",
        "The path of {folder} is too long for Windows: move it to a shorter one, or switch long paths on.",
    ),
    (
        r"Permission denied|Read-only file system|WinError 5\b|Operation not permitted|Errno (1|13|30)\b",
        "Nothing can be written to {folder}: put this folder where you may write, or ask for the right to.",
    ),
    (
        (
            r"ConnectionError|new connection|name resolution|Max retries exceeded|getaddrinfo|Network is unreachable"
            r"|timed out|ProxyError|Connection refused|connection broken|SSLError|CERTIFICATE_VERIFY|not fetch URL"
        ),
        (
            "There is no network, or it does not reach the package index: connect and type the same again, or install "
            "from a folder of wheels with --wheelhouse DIR."
        ),
    ),
)


def sentence_for(errors, folder):
    """What the errors of pip, venv or the system mean, in one sentence; '' where they say nothing known."""
    for pattern, meaning in MEANINGS:
        if re.search(pattern, errors):
            return meaning.format(folder=folder)
    return ""


def lacking_in(wheelhouse, missing, errors):
    named = re.findall(r"No matching distribution found for (\S+)|Cannot install (\S+)", errors)
    return (
        "The folder {0} has no wheel of {1} for this Python and system in the version that constraints.txt names; "
        "docs/publishing.md says how such a folder is filled."
    ).format(wheelhouse, in_words(missing or ["".join(names) for names in named[:1]] or ["all that is needed"]))


def last_line(errors):
    lines = [line.strip() for line in errors.splitlines() if line.strip() and not line.startswith("WARNING")]
    marked = [line for line in lines if line.startswith("ERROR") and "ResolutionImpossible" not in line]
    return (marked or lines or ["it said nothing"])[-1]


def link_to_project(folder):
    """Let the environment import what lies in ROOT. In ASCII and relative: Python reads .pth files in the console's
    encoding, and a checkout may be moved."""
    way = ascii(os.path.relpath(ROOT, folder))
    line = u"import os, sys; sys.path.append(os.path.normpath(os.path.join(sys.prefix, {0})))\n".format(way)
    write(os.path.join(packages_in(folder), "diffrender.pth"), line)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
