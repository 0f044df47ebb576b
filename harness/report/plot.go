package report

import (
	"bytes"
	"cmp"
	"fmt"
	"html/template"
	"image/color"
	"math"
	"regexp"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"qmtl.internal/plumbline/bench/load"
)

// chart is one picture of the page. SVG is "" when there was nothing to draw,
// and Reason then says why.
type chart struct {
	Title  string
	Note   string
	Legend []legend
	SVG    template.HTML
	Reason string
}

type legend struct {
	Name  string
	Color int // of the palette
	Dash  bool
}

// line is one curve of a chart.
type line struct {
	name   string
	points plotter.XYs
	dash   bool
}

// axes says how a chart is laid out.
type axes struct {
	x, y   string
	xTicks plot.Ticker // nil: plain numbers
	xRange [2]float64  // equal: from the points
}

// palette is the number of colours that the page's style sheet knows.
const palette = 6

// maxPoints is how many points of a line are drawn; of more, each stretch is
// drawn by its largest, so that peaks stay.
const maxPoints = 800

// Colours are placeholders that paint replaces by CSS variables, so that one
// drawing serves the light and the dark page.
func inkColor() color.Color       { return color.RGBA{1, 2, 3, 255} }
func gridColor() color.Color      { return color.RGBA{1, 2, 4, 255} }
func lineColor(i int) color.Color { return color.RGBA{1, 3, uint8(i % palette), 255} }

func drawChart(title, note string, a axes, lines []line) chart {
	c := chart{Title: title, Note: note}
	lines = drawable(lines)
	if len(lines) == 0 {
		c.Reason = "no observations"
		return c
	}
	p := newPlot(a)
	for i, l := range lines {
		curve, err := plotter.NewLine(thin(l.points))
		if err != nil {
			c.Reason = fmt.Sprintf("%s cannot be drawn: %v", l.name, err)
			return c
		}
		curve.Color, curve.Width = lineColor(i), vg.Points(1.6)
		if l.dash {
			curve.Dashes = []vg.Length{vg.Points(5), vg.Points(4)}
		}
		p.Add(curve)
		c.Legend = append(c.Legend, legend{l.name, i % palette, l.dash})
	}
	widen(p, a)
	c.SVG = render(p)
	return c
}

// finite tells numbers that can be placed on paper from the rest.
func finite(v float64) bool { return math.Abs(v) < 1e300 }

// drawable leaves out lines without points and points that are no numbers.
func drawable(lines []line) []line {
	var out []line
	for _, l := range lines {
		l.points = slices.DeleteFunc(slices.Clone(l.points), func(p plotter.XY) bool {
			return !finite(p.X) || !finite(p.Y)
		})
		if len(l.points) > 0 {
			out = append(out, l)
		}
	}
	return out
}

func thin(ps plotter.XYs) plotter.XYs {
	if len(ps) <= maxPoints {
		return ps
	}
	out := make(plotter.XYs, 0, maxPoints)
	for i := range maxPoints {
		stretch := ps[i*len(ps)/maxPoints : (i+1)*len(ps)/maxPoints]
		out = append(out, slices.MaxFunc(stretch, func(a, b plotter.XY) int { return cmp.Compare(a.Y, b.Y) }))
	}
	return out
}

func newPlot(a axes) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = nil // the page's
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = gridColor(), gridColor()
	p.Add(grid)
	p.X.Label.Text, p.Y.Label.Text = a.x, a.y
	for _, ax := range []*plot.Axis{&p.X, &p.Y} {
		ax.Color, ax.Tick.Color, ax.Label.TextStyle.Color, ax.Tick.Label.Color = gridColor(), gridColor(), inkColor(), inkColor()
		face := font.Font{Typeface: "Liberation", Variant: "Sans", Size: vg.Points(11)}
		ax.Label.TextStyle.Font, ax.Tick.Label.Font = face, face
		ax.Padding, ax.Tick.Marker = 0, numberTicks{}
	}
	if a.xTicks != nil {
		p.X.Tick.Marker = a.xTicks
	}
	return p
}

// widen starts the y axis at zero and leaves room above the highest point.
func widen(p *plot.Plot, a axes) {
	p.Y.Min = math.Min(0, p.Y.Min)
	p.Y.Max += (p.Y.Max - p.Y.Min) * 0.06
	if p.Y.Max <= p.Y.Min {
		p.Y.Max = p.Y.Min + 1
	}
	if a.xRange[0] < a.xRange[1] {
		p.X.Min, p.X.Max = a.xRange[0], a.xRange[1]
	}
	if p.X.Max <= p.X.Min {
		p.X.Max = p.X.Min + 1
	}
}

// numberTicks puts four to eight ticks at round numbers.
type numberTicks struct{}

func (numberTicks) Ticks(lo, hi float64) []plot.Tick {
	step := roundStep((hi - lo) / 7)
	var ticks []plot.Tick
	for i := math.Ceil(lo / step); i*step <= hi; i++ {
		ticks = append(ticks, plot.Tick{Value: i * step, Label: trimZeros(i * step)})
	}
	return ticks
}

// roundStep is the least of 1, 2 and 5 times a power of ten that is at least v.
func roundStep(v float64) float64 {
	unit := math.Pow(10, math.Floor(math.Log10(v)))
	for _, f := range []float64{1, 2, 5} {
		if f*unit >= v {
			return f * unit
		}
	}
	return 10 * unit
}

func trimZeros(v float64) string {
	s := fmt.Sprintf("%.3f", v)
	if strings.Trim(s, "-0.") == "" {
		return "0"
	}
	return strings.TrimRight(strings.TrimRight(s, "0"), ".")
}

const (
	chartWidth  = 560
	chartHeight = 230
)

func render(p *plot.Plot) template.HTML {
	c := vgsvg.New(chartWidth, chartHeight)
	p.Draw(draw.New(c))
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil { // a buffer takes everything
		return ""
	}
	return paint(b.String())
}

// paint turns a whole SVG file into an element of the page. Its text is escaped
// by the drawing library.
func paint(svg string) template.HTML {
	_, svg, _ = strings.Cut(svg, "<svg")
	_, body, _ := strings.Cut(svg, ">")
	body = regexp.MustCompile(`<!--.*?-->`).ReplaceAllString(body, "")
	pairs := []string{"#010203", "var(--ink)", "#010204", "var(--grid)"}
	for i := range palette {
		pairs = append(pairs, fmt.Sprintf("#01030%d", i), fmt.Sprintf("var(--c%d)", i))
	}
	pairs = append(pairs, "font-family:Liberation Sans;", "", "font-variant:none;", "")
	body = strings.NewReplacer(pairs...).Replace(body)
	return template.HTML(fmt.Sprintf(`<svg role="img" viewBox="0 0 %d %d" xmlns="http://www.w3.org/2000/svg">%s`, chartWidth, chartHeight, body)) //#nosec: drawn above
}

// percentileX places a percentile on a scale where each further nine takes the
// same room: 0 at 0, 90 at 1, 99 at 2, 99.9 at 3.
func percentileX(p float64) float64 { return -math.Log10(1 - p/100) }

func percentileTicks() plot.Ticker {
	var ticks plot.ConstantTicks
	for _, t := range []string{"0", "50", "90", "99", "99.9", "99.99", "99.999", "99.9999"} {
		var p float64
		fmt.Sscan(t, &p)
		ticks = append(ticks, plot.Tick{Value: percentileX(p), Label: t})
	}
	return ticks
}

// curveLine draws a percentile curve; the largest value of n observations
// stands at the percentile that only it lies beyond.
func curveLine(name string, l *load.Result, dash bool) line {
	out := line{name: name, dash: dash}
	if l == nil {
		return out
	}
	end := 1.0
	for _, p := range l.Curve {
		if p.Percentile < 100 {
			end = max(end, percentileX(p.Percentile))
		}
	}
	if n := l.Classes["all"].N; n > 1 {
		end = math.Log10(float64(n))
	}
	for _, p := range l.Curve {
		out.points = append(out.points, plotter.XY{X: min(end, percentileX(p.Percentile)), Y: p.MS})
	}
	return out
}
