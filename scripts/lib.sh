# shellcheck shell=bash
# Sourced by the other scripts, never run by itself.

# The oldest PostgreSQL that the tests run on: the first one whose initdb knows ICU locales.
readonly oldest_postgres=15

# Prints the folder of the newest PostgreSQL server binaries; fails when there are none that are new enough.
# Debian keeps them off PATH, and what PATH offers may be a wrapper, so Debian's folders come first.
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

# Prints the path of a PostgreSQL client program (psql, pgbench): beside the server binaries, else from PATH.
# Debian puts a wrapper on PATH that needs its own configuration, so the real one is preferred.
postgres_client() {
    local folder
    folder=${POSTHASTE_TEST_POSTGRES_BIN:-$(postgres_bin || true)}
    if [[ -x $folder/$1 ]]; then
        printf '%s\n' "$folder/$1"
    else
        command -v "$1"
    fi
}

# Prints a port of 127.0.0.1 that nothing listens on. It lies below the range from which the kernel takes
# ports for outgoing connections. Another program may still take it first: the caller tries again then.
free_port() {
    local port
    while true; do
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
        # A connection that is refused means that the port is free.
        if ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            printf '%s\n' "$port"
            return
        fi
    done
}

# Prints a Python that can make a virtual environment and is new enough for what is installed into them.
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

# Makes the virtual environment target/NAME-venv as scripts/NAME-requirements.txt says, or leaves one that is as it says:
# install_venv NAME TASK, where TASK is the task of scripts/setup that installs Python. Run in the project's folder.
install_venv() {
    local python wanted=scripts/$1-requirements.txt folder=target/$1-venv
    # The copy of the requirements is written last, so that it says that all of them are there.
    cmp --silent "$wanted" "$folder/requirements.txt" && return
    python=$(python_for_venv) || {
        echo "$1: no Python 3.11 or newer with venv here: run scripts/setup $2" >&2
        return 1
    }
    rm -rf "$folder"
    "$python" -m venv "$folder" &&
        "$folder/bin/python" -m pip --disable-pip-version-check install --quiet --requirement "$wanted" &&
        cp "$wanted" "$folder/requirements.txt"
}
