//! A vector of bounded length that lives where it stands. It does not grow, and it never drops an element silently.

/// The array was full; nothing was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// Up to `N` elements, in order.
#[derive(Clone, Copy)]
pub struct Array<T, const N: usize> {
    items: [T; N],
    len: usize,
}

impl<T: Copy + Default, const N: usize> Array<T, N> {
    /// An empty array.
    #[must_use]
    pub fn new() -> Self {
        Self { items: [T::default(); N], len: 0 }
    }

    /// Adds an element at the end.
    ///
    /// # Errors
    /// [`Full`] when `N` elements are in.
    pub fn push(&mut self, item: T) -> Result<(), Full> {
        let slot = self.items.get_mut(self.len).ok_or(Full)?;
        *slot = item;
        self.len += 1;
        Ok(())
    }

    /// Removes and returns the first element.
    pub fn pop_front(&mut self) -> Option<T> {
        let first = *self.as_slice().first()?;
        self.items.copy_within(1..self.len, 0);
        self.len -= 1;
        Some(first)
    }

    /// Adds an element before all others.
    ///
    /// # Errors
    /// [`Full`] when `N` elements are in.
    pub fn push_front(&mut self, item: T) -> Result<(), Full> {
        if self.len >= N {
            return Err(Full);
        }
        self.items.copy_within(..self.len, 1);
        let first = self.items.first_mut().ok_or(Full)?;
        *first = item;
        self.len += 1;
        Ok(())
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

impl<T, const N: usize> Array<T, N> {
    /// The elements.
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        self.items.get(..self.len).unwrap_or(&[])
    }

    /// The elements, to change.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        self.items.get_mut(..self.len).unwrap_or(&mut [])
    }

    /// How many elements are in.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T: Copy + Default, const N: usize> Default for Array<T, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: PartialEq, const N: usize> PartialEq for Array<T, N> {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl<T: Eq, const N: usize> Eq for Array<T, N> {}

impl<T: core::fmt::Debug, const N: usize> core::fmt::Debug for Array<T, N> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()
    }
}
