#!/usr/bin/env bash
# Draws the README's charts from what the benches print: examples/chart_*.svg. Needs gnuplot.
#
#   tests/charts.sh [LOG]   LOG (default build/bench.log) holds the lines; if it does not exist, it
#                           is made by `make bench bench-disk`, some fifteen minutes
#
# A chart whose lines the log lacks is left as it is. MACHINE names the machine below each chart.
set -eu
cd "$(dirname "$0")/.."
LOG=${1:-build/bench.log}
MACHINE=${MACHINE:-$(nproc) virtual cores, NVMe-class disk}
TABLES=build/charts
command -v gnuplot >/dev/null 2>&1 || { echo "skip charts: gnuplot is not installed"; exit 0; }
if [ ! -f "$LOG" ]; then
    mkdir -p "$(dirname "$LOG")"
    make bench bench-disk | tee "$LOG.part"
    mv "$LOG.part" "$LOG"
fi
mkdir -p "$TABLES"

look() { # width and height; the same for all
    cat <<EOF
set terminal svg size $1,$2 noenhanced font 'sans-serif,13' background '#ffffff'
set border 3 lc rgb '#888888'
set tics nomirror textcolor rgb '#333333'
set grid y lc rgb '#e4e4e4' lt 1
set key top left Left reverse textcolor rgb '#333333' samplen 2.5 spacing 1.15
set style line 1 lc rgb '#0072b2' lw 3.5 pt 7 ps 0.9
set style line 2 lc rgb '#8c8c8c' lw 2 dt 2 pt 6 ps 0.7
set style line 3 lc rgb '#d55e00' lw 2 pt 5 ps 0.7
set style line 4 lc rgb '#e69f00' lw 2 pt 9 ps 0.8
set style line 5 lc rgb '#009e73' lw 2 pt 13 ps 0.9
EOF
}

footer() { # the command that made it
    printf "set label 99 \"%s   (%s)\" at screen 0.5, screen 0.03 center font ',11' %s\n" \
        "$1" "$MACHINE" "textcolor rgb '#666666'"
}

draw() { # name; the program is the input
    local svg=examples/chart_$1.svg
    gnuplot >"$TABLES/$1.svg"
    sed '/<desc>/d; s:<title>[^<]*</title>::; s/[[:blank:]]*$//' "$TABLES/$1.svg" >"$svg"
    echo "charts: $svg"
}

lacking() {
    echo "charts: no lines for chart_$1.svg in $LOG"
}

# ---- sweeps: throughput against the share of the model that fits ----

sweep_table() { # share, then bound, tensormem, mmap, the better advised mmap, the better StarPU
    awk '
    $1 == "#" && $2 == "stream" && $3 ~ /^4m_clean_/ {
        split($3, part, "_"); split($5, is, "=")
        share[part[3]]; v[part[3], $4] = is[2]
    }
    function best(s, a, b) {
        return v[s, a] + 0 > v[s, b] + 0 ? v[s, a] : v[s, b]
    }
    function or_gap(x) { return x == "" ? "?" : x }
    END {
        for (s = 0; s <= 100; s++) {
            if (!(s in share)) continue
            print s, or_gap(v[s, "bound"]), or_gap(v[s, "tensormem"]), or_gap(v[s, "mmap"]),
                or_gap(best(s, "willneed", "sequential")), or_gap(best(s, "starpu", "starpu_ahead"))
        }
    }' "$LOG"
}

chart_sweep() {
    local table=$TABLES/sweep
    sweep_table >"$table"
    [ -s "$table" ] || { lacking sweep; return; }
    {
        look 880 440
        footer "make bench-disk && make charts"
        cat <<EOF
set datafile missing '?'
set title "Sweeping 1 GiB of tensors from disk, again and again, where only a part fits in memory" \
    font ',15' textcolor rgb '#111111'
set xlabel "share of the model that fits (%)" textcolor rgb '#333333'
set ylabel "GB of model per second (log)" textcolor rgb '#333333'
set bmargin 5.5
set logscale y 2
set yrange [*:128]
set xrange [20:95]
set xtics (25, 50, 75, 90)
plot '$table' using 1:2 with linespoints ls 2 title 'bound: what must be read, at raw speed', \
     '' using 1:3 with linespoints ls 1 title 'tensormem', \
     '' using 1:6 with linespoints ls 5 title 'StarPU', \
     '' using 1:4 with linespoints ls 3 title 'mmap', \
     '' using 1:5 with linespoints ls 4 title 'mmap + madvise'
EOF
    } | draw sweep
}

# ---- the main job against llama.cpp ----

lines() { # pattern of names: name value rival rival's value
    awk -v names="$1" '
    $1 == "bench" && $2 ~ names {
        for (i = 3; i <= NF; i++) { split($i, is, "="); f[is[1]] = is[2] }
        print $2, f["value"], f["rival"], (f["ratio"] > 0 ? f["value"] / f["ratio"] : "?")
    }' "$LOG"
}

chart_llm() {
    local table=$TABLES/llm
    lines '^llm_tokens_[0-9]+$' | sed 's/^llm_tokens_//' | sort -n >"$table"
    [ -s "$table" ] || { lacking llm; return; }
    {
        look 880 400
        footer "make bench-llama && make charts"
        cat <<EOF
set title "Decoding a Q8_0 model of more than 1 GB whose weights fit in memory only in part" \
    font ',15' textcolor rgb '#111111'
set xlabel "share of the weights that fits (%)" textcolor rgb '#333333'
set ylabel "tokens per second" textcolor rgb '#333333'
set bmargin 5.5
set yrange [0:*]
set style data histograms
set style histogram clustered gap 1
set style fill solid 1 noborder
set boxwidth 0.9
set xtics scale 0
plot '$table' using 2:xtic(1) lc rgb '#0072b2' title 'tensormem', \
     '' using 4 lc rgb '#d55e00' title 'llama.cpp with its mmap, same memory limit', \
     '' using (\$0 - 0.17):2:(sprintf('%.3g', \$2)) with labels offset 0,0.6 font ',11' notitle, \
     '' using (\$0 + 0.17):4:(sprintf('%.3g', \$4)) with labels offset 0,0.6 font ',11' notitle
EOF
    } | draw llm
}

# ---- what it costs when everything is resident ----

bars() { # table, title: horizontal bars, names on the left, values behind
    local count
    count=$(wc -l <"$1")
    cat <<EOF
set title "$2" font ',13' textcolor rgb '#111111'
set yrange [0.4 - $count:0.6]
set xrange [0:*]
plot '$1' using (\$2 / 2):(-\$0):(\$2 / 2):(0.32):3:ytic(1) with boxxyerror \
         lc rgb variable notitle, \
     '' using 2:(-\$0):(sprintf('%.3g', \$2)) with labels left offset 0.6,0 font ',11' notitle
EOF
}

hit_table() {
    lines '^pin_read(_vs_list)?$' | awk '
    $1 == "pin_read" { print "\"two bare\\natomics\"", $4, "0x8c8c8c"; own = $2 }
    $1 == "pin_read" { print "\"tensormem\\npin + unpin\"", $2, "0x0072b2" }
    $1 == "pin_read_vs_list" { print "\"mutex +\\nLRU list\"", $4, "0xd55e00" }'
}

place_table() { # ours and malloc, then each allocator that was there: `# place 1k live ...`
    awk '
    /^# place 1k live: fresh / {
        print "\"tensormem\\ncreate + pin\"", $6, "0x0072b2"
        print "\"malloc\"", $9 + 0, "0xd55e00"
    }
    /^# place 1k live against / { print "\"" substr($6, 1, length($6) - 1) "\"", $9, "0xd55e00" }
    ' "$LOG"
}

chart_cost() {
    local hit=$TABLES/hit place=$TABLES/place panels=1
    hit_table >"$hit"
    place_table >"$place"
    [ -s "$hit" ] || { lacking cost; return; }
    [ -s "$place" ] && panels=2
    {
        look 880 320
        footer "make bench && make charts"
        cat <<EOF
set multiplot layout 1, $panels margins 0.12, 0.94, 0.20, 0.78 spacing 0.19, 0.1 \
    title "When everything is resident: nanoseconds, less is better" font ',15'
set style fill solid 1 noborder
set grid x
unset grid
set border 2
unset xtics
set ytics scale 0
EOF
        bars "$hit" "a pin that hits, with its unpin"
        echo "unset label 99"
        [ $panels = 1 ] || bars "$place" "a new tensor of some hundred bytes, and its end"
        echo "unset multiplot"
    } | draw cost
}

chart_sweep
chart_llm
chart_cost
