#!/usr/bin/env bash
# The house rules against the files. Prints every breach; the exit status says whether there was one.
# The rooms and whom each may call: the table below is the law, tensormem.h must agree with it.
set -u
cd "$(dirname "$0")/.." || exit 1
HEADER=${1:-tensormem.h}
ROOMS="base:
tell:base
store:base tell
space:base tell store
shelf:base
tier:base tell store space
move:base tell store tier
tensor:base tell store
hint:base tell store tensor
policy:base space tensor hint
engine:base tell store space tier move tensor hint policy
watch:base tell store space tier move tensor hint policy
door:base tell store space shelf tier move tensor hint policy engine watch"
bad=0

breach() { # what is printed on the input is a breach, under this title
    local lines
    lines=$(cat)
    [ -z "$lines" ] && return
    printf '%s\n%s\n' "lint: $1" "$lines"
    bad=1
}

ours() { # every file of the repository, tracked or about to be
    git ls-files -co --exclude-standard 2>/dev/null ||
        find . -type f -not -path './.git/*' -not -path './build/*' | sed 's:^\./::'
}

existing() {
    local file
    while read -r file; do [ -f "$file" ] && echo "$file"; done
}

code() { # the file with comments and literals blanked, line for line
    awk '
    {
        out = ""
        for (i = 1; i <= length($0); i++) {
            two = substr($0, i, 2); c = substr($0, i, 1)
            if (comment) { if (two == "*/") { comment = 0; i++ } continue }
            if (quote != "") {
                if (c == "\\") i++
                else if (c == quote) { out = out quote; quote = "" }
                continue
            }
            if (two == "/*") { comment = 1; i++; out = out " "; continue }
            if (two == "//") break
            if (c == "\"" || c == "\047") quote = c
            out = out c
        }
        quote = ""
        print out
    }' "$1"
}

# Every line of the header as "room<TAB>line number<TAB>code"; the front has no room.
roomed() {
    paste -d $'\001' "$HEADER" <(code "$HEADER") | awk -F $'\001' -v rooms="$ROOMS" '
    BEGIN { n = split(rooms, row, "\n"); for (i = 1; i <= n; i++) { split(row[i], f, ":"); known[f[1]] = 1 } }
    /^\/\* \[[a-z]+\] ---/ {
        name = $1; sub(/^\/\* \[/, "", name); sub(/\].*/, "", name)
        room = (name in known) ? name : "-"
    }
    { print (room == "" ? "-" : room) "\t" NR "\t" $2 }'
}

rooms_in_order() {
    local want
    want=$(echo "$ROOMS" | cut -d: -f1)
    diff <(echo "$want") <(roomed | cut -f1 | uniq | grep -v '^-$') |
        sed -n 's/^< /room missing or out of order: /p; s/^> /room twice or out of order: /p'
}

static_names() { # a static function bears the name of the room it stands in
    roomed | awk -F '\t' '
    $3 ~ /^static / && $3 ~ /\(/ && $3 !~ /=/ {
        name = $3; sub(/\(.*/, "", name); sub(/.*[ *]/, "", name)
        if (index(name, "tnmi_" $1 "_") != 1) print $2 ": " name " stands in room " $1
    }'
}

calls() { # a room names only its own things and those of the rooms in its row
    roomed | awk -F '\t' -v rooms="$ROOMS" '
    BEGIN {
        n = split(rooms, row, "\n")
        for (i = 1; i <= n; i++) {
            split(row[i], f, ":"); known[f[1]] = 1; may[f[1], f[1]] = 1
            m = split(f[2], callee, " ")
            for (j = 1; j <= m; j++) may[f[1], callee[j]] = 1
        }
    }
    $1 != "-" {
        rest = $3
        while (match(rest, /tnmi_[a-z]+_[a-z0-9_]*/)) {
            word = substr(rest, RSTART, RLENGTH); rest = substr(rest, RSTART + RLENGTH)
            split(word, part, "_")
            if ((part[2] in known) && !(($1, part[2]) in may)) print $2 ": " $1 " may not use " word
        }
    }'
}

prototypes() { # definition before use: no static declaration without a body
    code "$1" | awk -v file="$1" '
    /^(static|TNMI_[A-Z]+ static) / { text = ""; start = NR }
    start { text = text $0
        if (text ~ /\{/ || text ~ /=/) start = 0
        else if (text ~ /;/) { if (text ~ /\(/) print file ":" start ": " text; start = 0 }
    }'
}

lengths() { # file, limit: functions longer than limit
    code "$1" | awk -v file="$1" -v limit="$2" '
    /^[A-Za-z].*\(/ && !start { start = NR; head = $0 }
    start && /;[ ]*$/ && !body { if ($0 !~ /\{/) start = 0 }
    /\{[ ]*$/ && start { body = 1 }
    /^}/ { if (start && body && NR - start + 1 > limit) {
               sub(/\(.*/, "", head); sub(/.*[ *]/, "", head)
               print file ":" start ": " head " has " NR - start + 1 " lines" }
           start = 0; body = 0 }'
}

reserved_names() { # ours never begin with an underscore; what systems ask us to define is theirs
    code "$1" | grep -nE '^[ #]*define +_|\b(struct|union|enum) +_[A-Za-z_]|\btypedef .*[ *]_[A-Za-z_]\w*;|^static .*[ *]_\w+\(|\bTNM\w*__|\btnm\w*__' |
        grep -vE 'define +_(GNU_SOURCE|POSIX_C_SOURCE|DEFAULT_SOURCE|FILE_OFFSET_BITS|DARWIN_C_SOURCE|CRT_SECURE_NO_WARNINGS|XOPEN_SOURCE)' |
        sed "s|^|$1:|"
}

layout() { # width in characters, tabs, trailing blanks, line ends
    grep -nP '^.{101,}' "$1" | sed "s|^\([0-9]*\):.*|$1:\1: over 100 columns|"
    grep -nP '\t' "$1" | sed "s|^\([0-9]*\):.*|$1:\1: tab|"
    grep -nP '[ \r]$' "$1" | sed "s|^\([0-9]*\):.*|$1:\1: blank at the end of the line|"
    [ -z "$(tail -c 1 "$1")" ] || echo "$1: no newline at the end"
}

each() { # function, arguments after the file; files on the input
    local function=$1 file
    shift
    while read -r file; do "$function" "$file" "$@"; done
}

test_files() {
    local room
    # the other rooms are tested through the calls (test_api_*) until they have a test of their own
    for room in base tell store space shelf tier move tensor hint policy engine watch door; do
        [ -f "tests/test_$room.c" ] || echo "tests/test_$room.c does not exist"
    done
}

top_level() {
    ours | cut -d/ -f1 | sort -u |
        grep -vxE 'tensormem\.h|examples|tests|fuzz|Makefile|LICENSE|README\.md|\..*'
}

# The words are spelt so that this file does not contain them.
words() {
    ours | existing | tr '\n' '\0' | xargs -0 grep -nIE \
        '(^|[^A-Za-z0-9_.])/([w]ork|[f]arm)/|\.[l]ibrary/|\b[f]arm-|[s]ubagent|\b[C]laude\b|[A]nthropic|[C]hatGPT|[O]penAI|[C]opilot' /dev/null
}

c_files() {
    ours | existing | grep -E '\.(c|h|cpp|cu)$'
}

long_lines() {
    c_files | each lengths 60 | sed 's/^/note: /'
}

script_layout() {
    ours | existing | grep -E '\.sh$|^\.ci/|^Makefile$|\.md$' | tr '\n' '\0' |
        xargs -0 grep -nE '[[:blank:]]+$' /dev/null
}

in_c() { # grep's flags and pattern
    c_files | tr '\n' '\0' | xargs -0 grep -n "$@" /dev/null
}

breach "the rooms of $HEADER, in the order of the table" < <(rooms_in_order)
breach "static functions are named tnmi_<room>_..." < <(static_names)
breach "a room uses a room it may not call" < <(calls)
breach "static forward prototypes" < <(prototypes "$HEADER")
breach "functions over 80 lines" < <(c_files | each lengths 80)
breach "reserved identifiers" < <(c_files | each reserved_names)
breach "layout" < <(c_files | each layout)
breach "blanks at the end of the line" < <(script_layout)
breach "C files are ASCII" < <(in_c -P '[^\x00-\x7F]')
breach "left to do" < <(in_c -wE '[T]ODO|[F]IXME|[X]XX')
breach "every back room has its test" < <(test_files)
breach "the top level is fixed" < <(top_level)
breach "words that belong elsewhere" < <(words)
long_lines
[ $bad -eq 0 ] && echo "lint: clean"
exit $bad
