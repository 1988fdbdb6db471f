# shellcheck shell=bash
# Functions for the other scripts, which source this file. It is not run by itself.

# The oldest PostgreSQL for the tests: the first version whose initdb supports ICU locales.
readonly oldest_postgres=15

# Prints the folder of the newest PostgreSQL server binaries; fails if none are new enough.
# Debian installs them outside of PATH, and programs on PATH may be wrappers, so Debian's folders are searched first.
postgres_bin() {
    local folder version newest=0 newest_folder=''
    for folder in /usr/lib/postgresql/*/bin; do
        version=${folder#/usr/lib/postgresql/}
        version=${version%/bin}
        [[ $version =~ ^[0-9]+$ && -x $folder/initdb && -x $folder/pg_ctl && -x $folder/postgres ]] || continue
        if ((version > newest)); then
            newest=$version
            newest_folder=$folder
        fi
    done
    if ((newest < oldest_postgres)) && [[ $(type -P initdb pg_ctl postgres | wc -l) -eq 3 ]]; then
        version=$(initdb --version) # "initdb (PostgreSQL) 17.2"
        version=${version##*) }
        version=${version%%[!0-9]*}
        newest=$((version))
        newest_folder=$(dirname "$(command -v initdb)")
    fi
    ((newest >= oldest_postgres)) && printf '%s\n' "$newest_folder"
}

# Prints the path of a PostgreSQL client program (psql, pgbench): the one beside the server binaries, else the one on PATH.
# Debian puts a wrapper on PATH that needs its own configuration, so the real program is preferred.
postgres_client() {
    local folder
    folder=${POSTHASTE_TEST_POSTGRES_BIN:-$(postgres_bin || true)}
    if [[ -x $folder/$1 ]]; then
        printf '%s\n' "$folder/$1"
    else
        command -v "$1"
    fi
}

# Prints a port of 127.0.0.1 on which nothing listens. It is below the range from which the kernel takes ports for outgoing
# connections. Another program may still use the port before the caller does; then the caller must try again.
free_port() {
    local port
    while true; do
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
        # A refused connection means that the port is free.
        if ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            printf '%s\n' "$port"
            return
        fi
    done
}

# Prints a Python that can create a virtual environment and is new enough for the packages that are installed into it.
python_for_venv() {
    local python
    for python in python3 /usr/bin/python3; do
        if "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$python"
            return
        fi
    done
    return 1
}

# Creates the virtual environment target/NAME-venv with the packages of scripts/NAME-requirements.txt, or keeps one that has
# them already: install_venv NAME TASK. TASK is the task of scripts/setup that installs Python. Run it in the project's folder.
install_venv() {
    local python wanted=scripts/$1-requirements.txt folder=target/$1-venv
    # The copy of the requirements is written last, so its existence means that all packages are installed.
    cmp --silent "$wanted" "$folder/requirements.txt" && return
    python=$(python_for_venv) || {
        echo "$1: Python 3.11 or newer with venv is missing: run scripts/setup $2" >&2
        return 1
    }
    rm -rf "$folder"
    "$python" -m venv "$folder" &&
        "$folder/bin/python" -m pip --disable-pip-version-check install --quiet --requirement "$wanted" &&
        cp "$wanted" "$folder/requirements.txt"
}
