//! What several workers may write at once: tiles of a matrix, and values of their own.
//!
//! Guarantees to safe callers: each tile of [`DisjointTiles`] is handed out once, and no two
//! tiles overlap; [`PerWorker`] lends each of its values to one caller at a time.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;

use super::Worker;

/// A matrix that several workers write, tile by tile: each tile is handed out once.
pub struct DisjointTiles<'a, T> {
    data: *mut T,
    n_rows: usize,
    width: usize,
    cut: Cut<'a>,
    tile_cols: usize,
    next: CachePadded<AtomicUsize>,
    _data: PhantomData<&'a mut [T]>,
}

/// Where a matrix is cut between rows.
enum Cut<'a> {
    /// After every so many rows.
    Every(usize),
    /// At these rows, ascending: tiles lie between neighbours.
    At(&'a [usize]),
}

// SAFETY: sharing it only lets threads take tiles, which are `&mut` to parts of `T: Send` that
// do not overlap.
unsafe impl<T: Send> Sync for DisjointTiles<'_, T> {}
// SAFETY: it is a `&mut [T]` in effect.
unsafe impl<T: Send> Send for DisjointTiles<'_, T> {}

impl<'a, T> DisjointTiles<'a, T> {
    /// Divides `data`, rows of `width`, into tiles of `tile_rows x tile_cols` (smaller at the
    /// ends), numbered row of tiles after row of tiles.
    ///
    /// # Panics
    /// If `data` is no whole number of rows or a size is 0.
    pub fn new(data: &'a mut [T], width: usize, tile_rows: usize, tile_cols: usize) -> Self {
        assert!(width > 0 && tile_rows > 0 && tile_cols > 0 && data.len().is_multiple_of(width));
        Self::cut(data, width, Cut::Every(tile_rows), tile_cols)
    }

    /// The same with tiles of uneven height: between each two neighbours of `cuts`.
    ///
    /// # Panics
    /// If `cuts` does not ascend or passes the last row; else as [`DisjointTiles::new`].
    pub fn at(data: &'a mut [T], width: usize, cuts: &'a [usize], tile_cols: usize) -> Self {
        assert!(width > 0 && tile_cols > 0 && data.len().is_multiple_of(width));
        assert!(cuts.is_sorted() && cuts.last().is_none_or(|&last| last <= data.len() / width));
        Self::cut(data, width, Cut::At(cuts), tile_cols)
    }

    fn cut(data: &'a mut [T], width: usize, cut: Cut<'a>, tile_cols: usize) -> Self {
        Self {
            n_rows: data.len() / width,
            data: data.as_mut_ptr(),
            width,
            cut,
            tile_cols,
            next: CachePadded::new(AtomicUsize::new(0)),
            _data: PhantomData,
        }
    }

    /// Number of tiles.
    pub fn len(&self) -> usize {
        let down = match self.cut {
            Cut::Every(rows) => self.n_rows.div_ceil(rows),
            Cut::At(cuts) => cuts.len().saturating_sub(1),
        };
        down * self.width.div_ceil(self.tile_cols)
    }

    /// Whether there is no tile at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A tile that nobody had yet, or `None` if all were taken.
    pub fn take(&self) -> Option<Tile<'_, T>> {
        // Cannot wrap: one call past the end for each of a few workers and ops.
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the counter gives each number once, to this matrix or to the group it is in.
        (index < self.len()).then(|| unsafe { self.tile(index) })
    }

    /// Tile `index`.
    ///
    /// # Safety
    /// `index` is below [`DisjointTiles::len`], and no other tile with it exists.
    unsafe fn tile(&self, index: usize) -> Tile<'_, T> {
        let across = self.width.div_ceil(self.tile_cols);
        let (down, c) = (index / across, index % across * self.tile_cols);
        let rows = match self.cut {
            Cut::Every(rows) => down * rows..((down + 1) * rows).min(self.n_rows),
            Cut::At(cuts) => cuts[down]..cuts[down + 1],
        };
        Tile {
            data: self.data,
            stride: self.width,
            rows,
            cols: c..(c + self.tile_cols).min(self.width),
            index,
            _data: PhantomData,
        }
    }
}

/// Three matrices divided into equally many tiles, taken together.
pub struct TripleTiles<'a, A, B, C>(DisjointTiles<'a, A>, DisjointTiles<'a, B>, DisjointTiles<'a, C>);

impl<'a, A, B, C> TripleTiles<'a, A, B, C> {
    /// Joins them.
    ///
    /// # Panics
    /// If their numbers of tiles differ.
    pub fn new(a: DisjointTiles<'a, A>, b: DisjointTiles<'a, B>, c: DisjointTiles<'a, C>) -> Self {
        assert!(a.len() == b.len() && a.len() == c.len());
        Self(a, b, c)
    }

    /// The tiles of one number that nobody had yet, or `None` if all were taken.
    pub fn take(&self) -> Option<(Tile<'_, A>, Tile<'_, B>, Tile<'_, C>)> {
        let a = self.0.take()?;
        // SAFETY: there are as many tiles of each, and the first one's counter, which gave this
        // number once, is the only one used: the three matrices are owned here.
        let (b, c) = unsafe { (self.1.tile(a.index), self.2.tile(a.index)) };
        Some((a, b, c))
    }
}

/// Part of a matrix that belongs to one worker alone.
pub struct Tile<'t, T> {
    data: *mut T,
    stride: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    index: usize,
    _data: PhantomData<&'t mut [T]>,
}

impl<T> Tile<'_, T> {
    /// Number of the tile.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Rows of the matrix in it.
    pub fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// Columns of the matrix in it.
    pub fn cols(&self) -> Range<usize> {
        self.cols.clone()
    }

    /// The tile's part of row `row` (counted in the matrix).
    ///
    /// # Panics
    /// If the row is not in the tile.
    pub fn row(&mut self, row: usize) -> &mut [T] {
        assert!(self.rows.contains(&row));
        // SAFETY: row and columns lie in the matrix that `DisjointTiles` borrows mutably; tiles
        // do not overlap and each exists once, so this is the only reference to these elements.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.stride + self.cols.start), self.cols.len()) }
    }

    /// All elements of a tile of one row.
    ///
    /// # Panics
    /// If it has more or fewer.
    pub fn only_row(&mut self) -> &mut [T] {
        assert!(self.rows.len() == 1);
        self.row(self.rows.start)
    }

    /// All elements of a tile as wide as the matrix.
    ///
    /// # Panics
    /// If the tile is narrower.
    pub fn all(&mut self) -> &mut [T] {
        assert!(self.cols == (0..self.stride));
        // SAFETY: as in `row`; whole rows follow each other without a gap.
        unsafe {
            std::slice::from_raw_parts_mut(self.data.add(self.rows.start * self.stride), self.rows.len() * self.stride)
        }
    }
}

/// One value for each worker: scratch memory, made at load.
pub struct PerWorker<T> {
    values: Vec<CachePadded<(AtomicBool, UnsafeCell<T>)>>,
}

// SAFETY: a value is reached only through `with`, whose flag lets one caller in at a time.
unsafe impl<T: Send> Sync for PerWorker<T> {}

impl<T> PerWorker<T> {
    /// Makes a value for each of `threads` workers.
    pub fn new(threads: usize, make: impl FnMut() -> T) -> Self {
        let mut make = make;
        Self {
            values: (0..threads).map(|_| CachePadded::new((AtomicBool::new(false), UnsafeCell::new(make())))).collect(),
        }
    }

    /// Lends `worker` its value.
    ///
    /// # Panics
    /// If it is lent already (a call inside the call), or was when its user panicked.
    pub fn with<R>(&self, worker: &Worker, body: impl FnOnce(&mut T) -> R) -> R {
        let (busy, value) = &*self.values[worker.index];
        assert!(!busy.swap(true, Ordering::Acquire), "scratch of worker {} is in use", worker.index);
        // SAFETY: the flag was free and is ours now: no other reference exists.
        let result = body(unsafe { &mut *value.get() });
        busy.store(false, Ordering::Release);
        result
    }
}
